"""``privfl run``: train, attack, write the page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli import follow_up, interruption, progress
from privfl.cli.arguments import Config, Overrides
from privfl.cli.console import err
from privfl.loading import load
from privfl.running.default_folder import default_folder

EXAMPLE: Final = "privfl run paper_configs/quickstart.toml seed=1 training.lr=0.2 --out runs/second"


def run(
    config: Config,
    overrides: Overrides = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="The run folder; runs/NAME unless it is given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in the folder stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
) -> None:
    """Train, attack the trained model, and write the page.

    Under `torchrun --nproc-per-node N -m privfl run ...` N processes share out each cohort; the result is the same.
    """
    settings = load(config, *overrides or ())

    from privfl import processes
    from privfl.running import recording

    with processes.joined() as all_of_them:
        if not all_of_them.first:
            recording.assist(settings, all_of_them)
            return
        path = out_dir or default_folder(settings, resume=resume, overwrite=overwrite)
        same = shlex.join(["run", str(config), *(overrides or ()), "--out", str(path), "--resume"])
        interruption.way_on.set(f"go on with `{interruption.program()} {same}`")
        with progress.training(err, settings, path, all_of_them.size) as observer:
            folder = recording.run(settings, path, resume=resume, overwrite=overwrite, observer=observer, processes=all_of_them)
    stopped = folder.result.stopped
    if stopped is not None:
        err.print(f"stopped: {stopped}", style="yellow", highlight=False)
    if settings.attacks.run and not folder.findings:
        follow_up.attack(folder, (), ())
    follow_up.write_page([folder], None)
