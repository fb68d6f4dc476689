"""``privfl frontier``: train and attack a grid of settings over seeds, and show privacy, utility and leakage on one page."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich import box
from rich.table import Table

from privfl.cli.arguments import Config, Quiet
from privfl.cli.console import err, hush, notes, out
from privfl.errors import ConfigError
from privfl.loading import load
from privfl.running.attacking import ALL
from privfl.running.run_folder import RunFolder
from privfl.running.sweeping import EndedRun, Variant

if TYPE_CHECKING:
    from privfl.report.frontier.points import Frontier

EXAMPLE: Final = (
    "privfl frontier paper_configs/digits.toml privacy.target_epsilon=inf,8,2 aggregator.kind=mean,secure_sum seed=0..2"
)


def frontier(
    config: Config,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE[,VALUE...]",
            help="Settings; of several values each is tried; 0..4 is five of them; privacy.target_epsilon=inf is no promise.",
        ),
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="'KEY=VALUE ...'",
            help="In place of a whole grid: the settings of one point; give it once for each point.",
        ),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Where all goes; runs/NAME-frontier unless given.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time.")] = 1,
    attacks: Annotated[
        str, typer.Option("--attacks", metavar="NAME,...", help="The attacks, as far as a run allows them; all: every one.")
    ] = ALL,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the runs that are there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train, attack and price every combination of settings over seeds, and write one page about the trade.

    The same command goes on with a frontier that was interrupted. An impossible combination is named, and the others run.
    """
    from privfl.report.frontier.page import write_frontier
    from privfl.running import sweeping

    hush(quiet)
    chosen, refused = sweeping.possible(config, overrides or (), points or ())
    words = tuple(name for name in attacks.split(",") if name)
    if not words:
        raise ConfigError(f"--attacks {attacks!r}: name attacks, separated by commas, or {ALL!r}")
    chosen = [replace(one, attacks=words) for one in chosen]
    out_path = out_dir or Path("runs") / f"{load(config).name}-frontier"
    notes.print(f"{len(chosen)} runs into {out_path}", highlight=False, soft_wrap=True)
    for one in refused:
        err.print(f"left out: {one.name}: {one.error}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    follow = _Following(chosen)
    ended = sweeping.run_locally(
        config, chosen, out_path / "runs", jobs=jobs, gpus=sweeping.gpus(), overwrite=overwrite, observer=follow.ended
    )
    failed = {one.name: one.error for one in refused} | {one.variant.name: one.words for one in ended if one.code}
    done = [RunFolder.open(one.folder) for one in ended if not one.code]
    if done:
        found = write_frontier(done, out_path, failed)
        _show(out_path, found)
    if any(one.code for one in ended):
        count = sum(one.code != 0 for one in ended)
        err.print(f"privfl: {count} of {len(ended)} runs failed; mend what they say and type the same again", style="red")
        raise typer.Exit(max(one.code for one in ended))


class _Following:
    """A line for each run that has ended, with the time that the others will take."""

    def __init__(self, chosen: list[Variant]) -> None:
        self._all, self._done, self._begun = len(chosen), 0, time.monotonic()

    def ended(self, one: EndedRun) -> None:
        """Print it."""
        self._done += 1
        left = (time.monotonic() - self._begun) / self._done * (self._all - self._done)
        said = "done" if one.code == 0 else f"exit code {one.code}: {one.words}"
        rest = (
            f", about {left / 60:.0f} min left"
            if left >= 60
            else f", about {left:.0f} s left"
            if self._done < self._all
            else ""
        )
        console = err if one.code else notes
        console.print(
            f"{self._done}/{self._all} {one.variant.name}: {said}{rest}", highlight=False, soft_wrap=True, markup=False
        )


def _show(out_path: Path, found: Frontier) -> None:
    from privfl.report.frontier import tables, verdict

    for sentence in verdict.sentences(found):
        out.print(sentence, highlight=False)
    header, *rows = tables.brief(found)
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    out.print(f"page: {(out_path / 'frontier.html').resolve()}", soft_wrap=True, highlight=False)
