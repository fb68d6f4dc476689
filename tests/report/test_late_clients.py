"""Late clients on a page: simulated seconds from the records, and sentences that count what happened."""

from __future__ import annotations

from typing import Any

import pytest
from small_runs import small

from privfl.report.drawing import style
from privfl.report.late_clients import settings_drawings
from privfl.report.page import run_page
from privfl.report.run_records import RunRecords
from privfl.running.recording import run

PLAIN: dict[str, Any] = {
    "rounds": 6,
    "training": {"local_epochs": 2, "batch_size": 16, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "cohort": {"kind": "fixed", "size": 6},
    "evaluation": {"every": 2},
}
CLOCK = {"kind": "lognormal", "seconds": 10.0, "sigma": 1.0}
PACES: dict[str, dict[str, Any]] = {
    "buffered": {"pace": {"kind": "buffered", "size": 3}, "clock": CLOCK},
    "deadline": {"pace": {"kind": "deadline", "seconds": 12.0, "late": "partial"}, "clock": CLOCK},
    "neither": {},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecords]:
    made = tmp_path_factory.mktemp("late")
    return {name: RunRecords.read(run(small(**PLAIN, **pace), made / name)) for name, pace in PACES.items()}


def test_the_metric_stands_against_the_seconds_of_the_records(runs: dict[str, RunRecords]) -> None:
    for name in ("buffered", "deadline"):
        page = run_page(runs[name])
        (drawn,) = [one for one in page.drawings if one.name == "simulated_seconds"]
        expected = [
            ["test split", f"{record.ends:.6g}", f"{record.evaluation.headline.value:.6g}"]
            for record in runs[name].rounds
            if record.evaluation is not None and record.ends is not None
        ]
        assert len(expected) == 3
        assert [list(row) for row in drawn.rows[1:]] == expected


def test_the_page_counts_what_was_late(runs: dict[str, RunRecords]) -> None:
    stale = [staleness for record in runs["buffered"].rounds for staleness in record.staleness.values()]
    assert stale
    html = run_page(runs["buffered"]).html
    assert f"{len(stale)} of 18 updates were computed from an older global model" in html
    assert f"{max(stale)} at most" in html
    assert "so many train at a time, and the first 3 that are done are summed" in html
    records = runs["deadline"].rounds
    late, cut = (sum(len(getattr(record, name)) for record in records) for name in ("late", "cut"))
    assert late
    assert cut
    html = run_page(runs["deadline"]).html
    assert f"{late} updates came too late and were dropped" in html or "1 update came too late" in html
    assert f"{cut} trainings did only a part of the work" in html


def test_a_run_without_a_clock_says_nothing_of_time(runs: dict[str, RunRecords]) -> None:
    page = run_page(runs["neither"])
    assert "simulated seconds" not in page.html
    assert "simulated time" not in page.html
    assert not [one for one in page.drawings if one.name == "simulated_seconds"]


def test_settings_are_compared_in_simulated_seconds_if_all_have_them(runs: dict[str, RunRecords]) -> None:
    headline = runs["buffered"].headline_metric
    both = [(name, [runs[name]]) for name in ("buffered", "deadline")]
    with style():
        (drawn,) = settings_drawings(both, headline)
        assert {row[0] for row in drawn.rows[1:]} == {"buffered", "deadline"}
        assert settings_drawings([*both, ("neither", [runs["neither"]])], headline) == []
        assert settings_drawings(both, None) == []
