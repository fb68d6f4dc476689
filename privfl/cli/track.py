"""``privfl track``: send runs to an experiment tracker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from privfl.cli.console import notes, out
from privfl.errors import TrackerError
from privfl.records import RoundRecord, TimingRecord
from privfl.running.run_folder import RunFolder

if TYPE_CHECKING:
    from privfl.trackers._tracking import Tracking

EXAMPLE: Final = "privfl track runs/quickstart --to tensorboard"


def track(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that `privfl run` made.")],
    to: Annotated[list[str], typer.Option("--to", metavar="NAME", help="tensorboard, mlflow or wandb.")],
) -> None:
    """Send runs to an experiment tracker: settings, rounds, ε, the findings of attacks, and the page.

    A tracker is set up by its library's own environment variables, for example MLFLOW_TRACKING_URI or WANDB_MODE=offline.
    """
    from privfl.trackers import open_tracker
    from privfl.trackers._tracking import Tracking

    folders = [RunFolder.open(path) for path in run_dirs]
    for name in to:
        for folder in folders:
            Tracking(name, open_tracker(name), folder.path).finish()
            out.print(f"{folder.path}: sent to {name}", highlight=False, soft_wrap=True)


class LiveTrackers:
    """Trackers that follow a run while it trains. One that fails is left out with a warning, and the run goes on.

    Args:
        names: the trackers' names.

    Raises:
        ConfigError: there is no such tracker, or its library is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._open: dict[str, Callable[[Path], Tracking]] = {}
        self._following: list[Tracking] = []
        if names:
            from privfl.trackers import open_tracker
            from privfl.trackers._tracking import Tracking

            for name in dict.fromkeys(names):
                self._open[name] = partial(Tracking, name, open_tracker(name))

    def follow(self, path: Path) -> None:
        """Follow the run that a folder holds or will hold."""
        self._following = [make(path) for make in self._open.values()]

    def send(self, record: RoundRecord, timing: TimingRecord) -> None:
        """Send a round to each tracker."""
        self._each(lambda one: one.send(record, timing))

    def finish(self) -> None:
        """Send the results to each tracker."""
        self._each(lambda one: one.finish())

    def _each(self, do: Callable[[Tracking], None]) -> None:
        for one in list(self._following):
            try:
                do(one)
            except TrackerError as error:
                self._following.remove(one)
                notes.print(f"warning: {error}", style="yellow", highlight=False, soft_wrap=True, markup=False)
