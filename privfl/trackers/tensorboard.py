"""TensorBoard: event files in the run folder, which ``tensorboard --logdir runs`` shows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from privfl.trackers import TrackedRun, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Tensorboard(Tracker):
    """TensorBoard. Figures of rounds are scalars; settings and final figures are hyperparameters and their metrics.

    Event files cannot be amended, so that they are written anew each time that a run is begun. TensorBoard keeps no files of
    its own: the place of the page is a text.
    """

    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)

    _writer: SummaryWriter
    _run: TrackedRun

    def begin(self, run: TrackedRun) -> int:
        """See :class:`privfl.trackers.Tracker`."""
        from torch.utils.tensorboard import SummaryWriter

        place = run.folder / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)
        self._writer, self._run = SummaryWriter(str(place)), run
        return 0

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See :class:`privfl.trackers.Tracker`."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """See :class:`privfl.trackers.Tracker`."""
        # It writes an event file of its own into the folder named, as TensorBoard's table of hyperparameters needs it.
        self._writer.add_hparams(dict(self._run.settings), dict(figures), run_name=".")
        for file in files:
            text = f"[{file}]({file.as_uri()})" if file.suffix == ".html" else f"```\n{file.read_text(encoding='utf-8')}\n```"
            self._writer.add_text(file.name, text)
        self._writer.close()
