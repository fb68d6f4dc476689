"""``privfl reproduce``: run rows of papers by name, and say whether their claims hold."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer
from rich import box
from rich.table import Table

from privfl.cli import interruption
from privfl.cli.arguments import Quiet
from privfl.cli.console import err, hush, notes, out
from privfl.errors import ConfigError
from privfl.papers import Topic
from privfl.shelves import nearest

if TYPE_CHECKING:
    from privfl.records import PaperResult
    from privfl.running.paper_rows import PaperRow
    from privfl.running.reproducing import Done, Order

EXAMPLE: Final = "privfl reproduce 'abadi2016_*' --jobs 2"

_RUNS: Final = Path("runs") / "reproduce"


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME|GLOB|all", help="Rows by name, by a pattern in quotes, or all.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Run nothing: list the rows.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Run nothing: show the recorded results, write the pages.")] = False,
    topics: Annotated[list[str] | None, typer.Option("--topic", metavar="TOPIC", help="Rows of this topic only.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave out rows for a GPU.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Leave out rows with longer seeds.")] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="One seed of seconds for each row, to see that it runs; nothing is recorded.")
    ] = False,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds for each row, in place of its own.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time.")] = 1,
    papers: Annotated[Path, typer.Option("--papers", metavar="FOLDER", help="The folder of the rows.")] = Path("paper_configs"),
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The folder of runs, page and tables; runs/reproduce unless given.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run rows of papers over seeds, and say which claims hold.

    The same command goes on after an interruption; finished runs are not run again. docs/papers.md says how to add a row.
    """
    from privfl.running import paper_rows

    hush(quiet)
    if smoke and seeds is not None:
        raise ConfigError(f"--seeds {seeds}: --smoke runs one seed of each row; give one of them")
    rows = paper_rows.rows_of(papers)
    if not names and not (show_list or table):
        raise ConfigError("nothing to reproduce: name a row, a pattern in quotes, or all; `privfl reproduce --list` lists them")
    chosen = paper_rows.chosen(rows, names or [paper_rows.ALL], [_topic(one) for one in topics or ()], cpu=cpu, minutes=minutes)
    target = out_dir or (_RUNS.with_name("reproduce-smoke") if smoke else _RUNS)
    if show_list:
        _list(chosen, papers)
    elif table:
        _written(rows, chosen, papers, target, {}, {})
    else:
        _run(rows, chosen, papers, target, smoke=smoke, seeds=seeds, jobs=jobs)


def _topic(name: str) -> Topic:
    for known in get_args(Topic):
        if known == name:
            topic: Topic = known
            return topic
    raise ConfigError(f"--topic {name!r}: {nearest(name, get_args(Topic))}")


def _list(chosen: Sequence[PaperRow], papers: Path) -> None:
    from privfl.report.papers.page import read_results
    from privfl.report.papers.tables import status_words
    from privfl.report.papers.verdict import verdicts

    status = {one.row.name: status_words(one) for one in verdicts({row.name: row for row in chosen}, read_results(papers))}
    table = Table("row", "topic", "min a seed", "status", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True  # People type it.
    for row in chosen:
        paper = row.paper
        table.add_row(row.name, paper.topic, f"{paper.minutes:g}{' GPU' if paper.device == 'gpu' else ''}", status[row.name])
    out.print(table)
    total = sum(row.paper.minutes * (len(row.paper.seeds_of()) if row.paper.trained else 1) for row in chosen)
    out.print(f"{len(chosen)} rows, about {total:.0f} min with all their seeds, one at a time", highlight=False)


def _run(
    rows: dict[str, PaperRow],
    chosen: Sequence[PaperRow],
    papers: Path,
    target: Path,
    *,
    smoke: bool,
    seeds: int | None,
    jobs: int,
) -> None:
    from privfl.report.wording import plural
    from privfl.running import paper_rows, reproducing, sweeping

    gpus = sweeping.gpus()
    reasons = {row.name: why for row in chosen if (why := paper_rows.missing(row, gpus=gpus, smoke=smoke)) is not None}
    able = [row for row in chosen if row.name not in reasons]
    todo = reproducing.orders(able, seeds, smoke=smoke)
    notes.print(f"{plural(len(able), 'row')}, {plural(len(todo), 'run')} into {target}", highlight=False, soft_wrap=True)
    for name, why in reasons.items():
        notes.print(f"not run: {name}: {why}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    follow = _Following(todo)
    done: dict[str, list[Done]] = {}
    interruption.way_on.set("type the same command again to go on")
    for one in reproducing.carry_out(todo, target, jobs=jobs, gpus=gpus):
        follow.ended(one)
        done.setdefault(one.order.row.name, []).append(one)
    found = {}
    for row in able:
        ended = sorted(done[row.name], key=lambda one: one.order.seed)
        if failed := [one for one in ended if one.error is not None]:
            reasons[row.name] = f"failed: {failed[0].error}"
        elif (result := reproducing.result_of(row, ended)) is not None:
            found[row.name] = result
    if smoke:
        _say_smoke(chosen, reasons)
    else:
        _written(rows, chosen, papers, target, found, reasons)
    if any(one.error is not None for ended in done.values() for one in ended):
        err.print("privfl: some runs failed; mend what they say and type the same again", style="red")
        raise typer.Exit(1)


def _written(
    rows: Mapping[str, PaperRow],
    chosen: Sequence[PaperRow],
    papers: Path,
    target: Path,
    found: Mapping[str, PaperResult],
    reasons: Mapping[str, str],
) -> None:
    """Record the results, write every page from all that is recorded, and show the chosen rows."""
    from privfl.report.papers import page, tables
    from privfl.report.papers.verdict import verdicts

    recorded = page.read_results(papers)
    better = {name: one for name, one in found.items() if _replaces(one, recorded.get(name))}
    every = verdicts(rows, {**recorded, **better})
    page.write_results(papers, every)
    page.write_readme(papers, every)
    # A row that could not be run now is told so, whatever was recorded elsewhere.
    known = {name: one for name, one in {**recorded, **found}.items() if name not in reasons}
    of_chosen = verdicts({row.name: row for row in chosen}, known, reasons)
    header, *body = tables.brief(of_chosen)
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for row in body:
        table.add_row(*row)
    out.print(table)
    for name, why in page.notes(of_chosen).items():
        out.print(f"{name}: {why}", highlight=False, soft_wrap=True, markup=False)
    out.print(page.counted(of_chosen), highlight=False)
    for name in found.keys() - better.keys():
        notes.print(f"{name}: the recorded result has more seeds and was kept", highlight=False, soft_wrap=True)
    out.print(f"page: {page.write_tables(of_chosen, target).resolve()}", soft_wrap=True, highlight=False)


def _replaces(new: PaperResult, old: PaperResult | None) -> bool:
    """Whether a result replaces the recorded one: it is of other settings, or of at least as many seeds."""
    return old is None or old.digest != new.digest or len(new.seeds) >= len(old.seeds)


def _say_smoke(chosen: Sequence[PaperRow], reasons: Mapping[str, str]) -> None:
    table = Table("row", "smoke run", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in chosen:
        table.add_row(row.name, f"not run: {reasons[row.name]}" if row.name in reasons else "runs")
    out.print(table)
    out.print(f"{len(chosen) - len(reasons)} of {len(chosen)} rows run; nothing was recorded", highlight=False)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _weight(order: Order) -> float:
    """How long it takes, in relation to others."""
    return 1.0 if order.smoke else order.row.paper.minutes


class _Following:
    """A line for each run that has ended, with the time that the others will take."""

    def __init__(self, todo: Sequence[Order]) -> None:
        self._whole = sum(map(_weight, todo))
        self._all, self._ended, self._done, self._begun = len(todo), 0, 0.0, time.monotonic()

    def ended(self, one: Done) -> None:
        """Print it."""
        self._ended += 1
        self._done += _weight(one.order)
        # Rows say how long they take, and the runs so far say how fast this machine is.
        left = (time.monotonic() - self._begun) / self._done * (self._whole - self._done)
        rest = f"; about {_duration(left)} left" if self._ended < self._all else ""
        said = f"failed: {one.error}" if one.error is not None else f"done in {_duration(60 * one.minutes)}"
        console = err if one.error is not None else notes
        console.print(
            f"{self._ended}/{self._all} {one.order.words}: {said}{rest}", highlight=False, soft_wrap=True, markup=False
        )
