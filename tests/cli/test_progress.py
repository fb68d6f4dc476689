"""Lines about a run, for somebody who is not at a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from small_runs import small

from privfl.cli import progress
from privfl.records import RoundRecord, TimingRecord

WORDS = "processes trained: a cohort of 5"


@pytest.mark.parametrize(("trained", "of", "told"), [(1, 2, True), (2, 2, False), (0, 1, False), (0, 2, False)])
def test_processes_are_idle_only_where_somebody_trained(trained: int, of: int, told: bool) -> None:
    written = io.StringIO()
    record = RoundRecord(
        round=0,
        cohort=[0, 1, 2, 3, 4],
        survivors=[],
        skipped=None if trained else "a cohort of 5",
        train_loss=None,
        clipped_share=None,
        clipped_coordinates=0,
        epsilon=None,
        bytes_up=0,
        bytes_down=0,
        evaluation=None,
        secure=None,
    )
    seconds = {"train": 0.0, "aggregate_client": 0.0, "aggregate_server": 0.0, "evaluate": 0.0, "total": 0.0}
    timing = TimingRecord(round=0, processes=trained, stages=[], **seconds)
    with progress.training(Console(file=written, width=300), small(), Path("runs/small"), of) as observe:
        observe(record, timing)
        observe(record, timing)
    assert written.getvalue().count(WORDS) == told
