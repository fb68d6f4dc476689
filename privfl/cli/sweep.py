"""``privfl sweep``: run every combination of several settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli import follow_up
from privfl.cli.arguments import Config, Quiet
from privfl.cli.console import err, hush, notes
from privfl.errors import ConfigError
from privfl.loading import load
from privfl.running.run_folder import RunFolder
from privfl.running.sweeping import EndedRun

EXAMPLE: Final = "privfl sweep paper_configs/digits.toml seed=0..4 privacy.target_epsilon=2,8 --jobs 2"


def sweep(
    config: Config,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE[,VALUE...]", help="Settings; of several values each is tried; 0..4 is five of them."),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Where the runs go; runs/NAME-sweep unless given.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time; on a machine with GPUs, one a GPU is good.")] = 1,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Run as a job array instead: slurm (needs the extra 'slurm').")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the runs that are there.")] = False,
    ask: Annotated[
        list[str] | None, typer.Option("--ask", metavar="NAME=VALUE", help="What the scheduler is asked for: timeout_min=60.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run every combination of several settings, each into a folder of its own, and compare them on one page.

    The same command goes on with a sweep that was interrupted; finished runs are not run again.
    """
    from privfl.running import sweeping

    hush(quiet)
    if ask and cluster is None:
        raise ConfigError(f"--ask {ask[0]!r}: is for a scheduler; name it with --cluster slurm, or leave it out to run here")
    chosen = sweeping.variants(config, overrides or ())
    out_path = out_dir or Path("runs") / f"{load(config).name}-sweep"
    notes.print(f"{len(chosen)} runs into {out_path}", highlight=False, soft_wrap=True)
    if cluster is not None:
        asked = _parameters(ask or ())
        ended = sweeping.run_on_cluster(config, chosen, out_path, cluster=cluster, parameters=asked, overwrite=overwrite)
        for one in ended:
            _ended(one)
    else:
        ended = sweeping.run_locally(
            config, chosen, out_path, jobs=jobs, gpus=sweeping.gpus(), overwrite=overwrite, observer=_ended
        )
    done = [RunFolder.open(one.folder) for one in ended if one.code == 0]
    if done:
        follow_up.write_page(done, out_path / "comparison.html")
    failed = sum(one.code != 0 for one in ended)
    if failed:
        err.print(f"privfl: {failed} of {len(ended)} runs failed; mend what they say and type the same again", style="red")
        raise typer.Exit(max(one.code for one in ended if one.code != 0))


def _ended(one: EndedRun) -> None:
    said = "done" if one.code == 0 else f"exit code {one.code}: {one.words}"
    console = err if one.code else notes
    console.print(f"{one.variant.name}: {said}", highlight=False, soft_wrap=True, markup=False)


def _parameters(asked: Sequence[str]) -> dict[str, str | int]:
    pairs = [pair.partition("=") for pair in asked]
    for name, equals, value in pairs:
        if not equals or not value:
            raise ConfigError(f"--ask {name!r}: must be NAME=VALUE, for example timeout_min=60")
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}
