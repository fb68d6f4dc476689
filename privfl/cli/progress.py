"""Progress on the terminal: a bar if somebody looks on, a line for each step otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from privfl.config import ExperimentConfig
from privfl.records import RoundRecord, TimingRecord

if TYPE_CHECKING:
    from privfl.learning.tasks import Figure


class FetchBar:
    """Follows a fetch on a progress bar."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task: TaskID | None = None

    def trying(self, source: str, size: int) -> None:
        """Begin a bar of that many bytes."""
        self.task = self.bar.add_task(source, total=size)

    def progress(self, done: int, size: int) -> None:
        """Move it on."""
        if self.task is not None:
            self.bar.update(self.task, completed=done, total=size)

    def refused(self, source: str, why: str) -> None:
        """Say why another source is tried."""
        self.bar.console.print(f"{source}: {why}; trying the next source", style="yellow", highlight=False)


@contextmanager
def training(
    err: Console, config: ExperimentConfig, path: Path, processes: int
) -> Iterator[Callable[[RoundRecord, TimingRecord], None]]:
    """Follow a run into its folder, round by round, and say once if some of its processes have nothing to train."""
    err.print(f"{config.name}: {config.rounds} rounds of {config.data.kind} into {path}", highlight=False, soft_wrap=True)
    from privfl.learning.tasks import Task
    from privfl.tables import narrow

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("reading the data, fixing the noise", total=config.rounds)
        figure = next(iter(narrow(config.task, Task).figures.values()))

        told = False

        def observe(record: RoundRecord, timing: TimingRecord) -> None:
            nonlocal told
            # In a round that was skipped nobody had anything to do.
            if not told and 0 < timing.processes < min(len(record.cohort), processes):
                told = True
                err.print(
                    f"{timing.processes} of {processes} processes trained: a cohort of {len(record.cohort)} is cut into that "
                    f"many parts; set training.parts = {processes} or more",
                    style="yellow",
                    highlight=False,
                    soft_wrap=True,
                )
            text = _round_line(record, figure)
            if err.is_terminal:
                bar.update(task, completed=record.round + 1, description=text)
            else:
                err.print(
                    f"round {record.round + 1}/{config.rounds}  {text}  {timing.total:.1f} s", highlight=False, soft_wrap=True
                )

        yield observe


def _round_line(record: RoundRecord, figure: Figure) -> str:
    parts = []
    if record.skipped is not None:
        parts.append(f"skipped: {record.skipped}")
    if record.evaluation is not None:
        found = record.evaluation.headline.value
        shown = f"{found:.1%}" if figure.unit == "%" else f"{found:.3g} {figure.unit}".strip()
        parts.append(f"{figure.title} {shown}")
    if record.epsilon is not None:
        parts.append(f"ε {record.epsilon:{'.1g' if 0 < record.epsilon < 0.005 else '.2f'}}")
    return "  ".join(parts)


@contextmanager
def shadow_models(err: Console) -> Iterator[Callable[[int, int], None]]:
    """Follow shadow models: how many are done, of how many."""
    columns = (TextColumn("shadow models"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def observe(done: int, total: int) -> None:
            if not total:
                return
            if err.is_terminal:
                bar.update(task, completed=done, total=total)
            else:
                err.print(f"shadow models: {done} of {total}", highlight=False)

        yield observe
