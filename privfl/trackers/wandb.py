"""Weights & Biases: a run in the project ``privfl``, online or, with ``WANDB_MODE=offline``, in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from privfl.trackers import TrackedRun, Tracker

if TYPE_CHECKING:
    from wandb import Run


class Wandb(Tracker):
    """Weights & Biases. Settings are the run's config, final figures its summary; the page and the records are an artefact.

    ``WANDB_MODE``, ``WANDB_PROJECT`` and ``WANDB_DIR`` are the library's own settings. A run folder has one identity there, so
    that tracking it again goes on with the same run.
    """

    packages: ClassVar[tuple[str, ...]] = ("wandb",)

    _run: Run

    def begin(self, run: TrackedRun) -> int:
        """See :class:`privfl.trackers.Tracker`."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "privfl"),
            id=run.identity,
            name=run.name,
            config=dict(run.settings),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        return int(self._run.step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See :class:`privfl.trackers.Tracker`."""
        self._run.log(dict(figures), step=step)

    def finish(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """See :class:`privfl.trackers.Tracker`."""
        import wandb

        self._run.summary.update(dict(figures))
        records = wandb.Artifact(f"run-{self._run.id}", type="privfl-run")
        for file in files:
            records.add_file(str(file))
        self._run.log_artifact(records)
        self._run.finish()
