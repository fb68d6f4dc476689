"""The training of a run from the command line, which several commands begin with."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from privfl.cli import interruption, progress
from privfl.cli.console import notes
from privfl.cli.track import LiveTrackers
from privfl.config import ExperimentConfig
from privfl.records import RoundRecord, TimingRecord
from privfl.running.default_folder import default_folder
from privfl.running.run_folder import RunFolder


def train(
    settings: ExperimentConfig,
    command: Callable[[Path], Sequence[str]],
    out_dir: Path | None,
    *,
    resume: bool,
    overwrite: bool,
    trackers: LiveTrackers | None = None,
) -> RunFolder | None:
    """Train a configuration and show its progress; under ``torchrun`` together with the other processes.

    Args:
        settings: the configuration.
        command: the words that continue the command in a folder, for whoever interrupts it.
        out_dir: the run folder; None: it is named after the configuration.
        resume: continue the run in the folder.
        overwrite: replace the run in the folder.
        trackers: those that follow the run.

    Returns:
        the run folder; None in every process but the first.
    """
    from privfl import processes
    from privfl.running import recording

    with processes.joined() as all_of_them:
        if not all_of_them.first:
            recording.assist(settings, all_of_them)
            return None
        path = out_dir or default_folder(settings, resume=resume, overwrite=overwrite)
        interruption.way_on.set(f"go on with `{interruption.program()} {shlex.join(command(path))}`")
        follower = trackers or LiveTrackers(())
        follower.follow(path)
        with progress.training(notes, settings, path, all_of_them.size) as observer:

            def observe(record: RoundRecord, timing: TimingRecord) -> None:
                observer(record, timing)
                follower.send(record, timing)

            folder = recording.run(
                settings, path, resume=resume, overwrite=overwrite, observer=observe, processes=all_of_them, warn=_warn
            )
    stopped = folder.result.stopped
    if stopped is not None:
        notes.print(f"stopped: {stopped}", style="yellow", highlight=False)
    return folder


def _warn(sentence: str) -> None:
    notes.print(f"warning: {sentence}", style="yellow", highlight=False, soft_wrap=True, markup=False)
