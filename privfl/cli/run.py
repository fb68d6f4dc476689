"""``privfl run``: train, attack, write the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli import follow_up
from privfl.cli.arguments import Config, Overrides, Quiet
from privfl.cli.console import hush
from privfl.cli.track import LiveTrackers
from privfl.cli.training import train
from privfl.loading import load

EXAMPLE: Final = "privfl run paper_configs/quickstart.toml seed=1 training.lr=0.2 --out runs/second"


def run(
    config: Config,
    overrides: Overrides = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="The run folder; runs/NAME unless it is given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in the folder stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    track: Annotated[
        list[str] | None, typer.Option("--track", metavar="NAME", help="Send each round to tensorboard, mlflow or wandb.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train, attack the trained model, and write the page.

    Under `torchrun --nproc-per-node N -m privfl run ...` N processes share out each cohort; the result is the same.
    """
    hush(quiet)
    settings = load(config, *overrides or ())

    def command(path: Path) -> list[str]:
        tracked = [word for name in track or () for word in ("--track", name)]
        return ["run", str(config), *(overrides or ()), "--out", str(path), *tracked, "--resume"]

    trackers = LiveTrackers(track or ())
    folder = train(settings, command, out_dir, resume=resume, overwrite=overwrite, trackers=trackers)
    if folder is None:
        return
    if settings.attacks.run and not folder.findings:
        follow_up.attack(folder, (), ())
    follow_up.write_page([folder], None)
    trackers.finish()
