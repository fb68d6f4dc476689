"""The tracking of a run: its rounds while it trains, its results afterwards, or all of it later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privfl.errors import TrackerError
from privfl.own_code import what
from privfl.records import RoundRecord, TimingRecord
from privfl.running.run_folder import RunFolder
from privfl.trackers import Tracker, _figures


class Tracking:
    """Sends one run to one tracker.

    Args:
        name: the tracker's name, for errors.
        tracker: the tracker.
        path: the run folder. It need not be there before the first round.
    """

    def __init__(self, name: str, tracker: Tracker, path: Path) -> None:
        self.name, self.tracker, self.path = name, tracker, path.resolve()
        self._sent: int | None = None

    def send_rounds(self) -> None:
        """Send the rounds of the folder that the tracker does not have yet.

        Raises:
            TrackerError: the tracker failed, in one line.
        """
        folder = RunFolder.open(self.path)
        rounds = list(zip(folder.rounds(), folder.timings(), strict=False))
        with _one_line(self.name, self.path):
            if self._sent is None:
                self._sent = self.tracker.begin(_figures.tracked(folder))
            for record, timing in rounds[self._sent :]:
                self.send(record, timing)

    def send(self, record: RoundRecord, timing: TimingRecord) -> None:
        """Send one round.

        Raises:
            TrackerError: the tracker failed, in one line.
        """
        if self._sent is None:
            self.send_rounds()
            return
        with _one_line(self.name, self.path):
            self.tracker.log(record.round + 1, _figures.of_round(record, timing))
        self._sent = record.round + 1

    def finish(self) -> None:
        """Send the results of the run, its configuration, and its page if it has one; of an unfinished run the configuration.

        Raises:
            TrackerError: the tracker failed, in one line.
        """
        self.send_rounds()
        folder = RunFolder.open(self.path)
        figures = _figures.of_run(folder) if folder.finished else {}
        kept = [self.path / name for name in ("config.toml", "result.json", "report.html")]
        with _one_line(self.name, self.path):
            self.tracker.finish(figures, [file for file in kept if file.exists()])


@contextmanager
def _one_line(name: str, path: Path) -> Iterator[None]:
    """Tell whatever a tracker's library raises in one line; it may be anything."""
    try:
        yield
    except Exception as error:
        again = f"`privfl track {path} --to {name}` sends the run again"
        raise TrackerError(f"tracker {name!r} failed ({what(error)}); the run folder has everything, {again}") from error
