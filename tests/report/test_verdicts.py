"""Verdicts on rows of papers: what is near enough, in order, and enough to count."""

from __future__ import annotations

from pathlib import Path

import pytest
from papers_made import write_row

from privfl.records import PaperCell, PaperResult
from privfl.report.papers import tables
from privfl.report.papers.verdict import Verdict, verdicts
from privfl.running.paper_figures import rounds_to
from privfl.running.paper_rows import PaperRow


def row(folder: Path, name: str, **paper: object) -> PaperRow:
    return PaperRow.read(write_row(folder, name, paper))


def result(row: PaperRow, *cells: list[float | None], seeds: list[int] | None = None) -> PaperResult:
    made = [PaperCell(name=figure.name, values=values) for figure, values in zip(row.paper.cells, cells, strict=True)]
    return PaperResult(
        row=row.name,
        digest=row.digest,
        seeds=seeds or list(range(len(cells[0]))),
        cells=made,
        prices={},
        delta=None,
        unit=None,
        minutes=1.0,
        device="cpu",
        versions={},
        date="2026-01-01",
    )


def verdict(row: PaperRow, *cells: list[float | None], **others: tuple[PaperRow, list[float | None]]) -> Verdict:
    rows = {row.name: row} | {name: one for name, (one, _) in others.items()}
    results = {row.name: result(row, *cells)} | {name: result(one, values) for name, (one, values) in others.items()}
    return next(one for one in verdicts(rows, results) if one.row.name == row.name)


@pytest.mark.parametrize(
    ("paper", "values", "status"),
    [
        ({"claim": 0.9, "tolerance": 0.01}, [0.88, 0.91, 0.91], "reproduced"),
        # The mean decides; an end of the interval beyond the tolerance does not.
        ({"claim": 0.9, "tolerance": 0.01}, [0.80, 0.90, 0.98], "reproduced"),
        ({"claim": 0.9, "tolerance": 0.01}, [0.91, 0.91, 0.91], "reproduced"),
        ({"claim": 0.9, "tolerance": 0.01}, [0.911, 0.911, 0.911], "not reproduced"),
        ({"claim": 0.9, "tolerance": 0.01}, [0.889, 0.889, 0.889], "not reproduced"),
        ({"claim": 0.9, "tolerance": 0.01}, [0.9, 0.9], "not run"),
        ({"claim": 0.9, "tolerance": 0.01, "learning_rate": "tuned"}, [0.9] * 3, "reproduced with own tuning"),
        ({"claim": 0.9, "tolerance": 0.01, "learning_rate": "tuned"}, [0.8] * 3, "not reproduced"),
        ({"claim": 0.9, "tolerance": 0.01, "provenance": "memory"}, [0.9] * 3, "method check"),
        ({"claim": 0.9, "tolerance": 0.01, "provenance": "second_hand"}, [0.9] * 3, "reproduced"),
        ({"claim": 0.9, "tolerance": 0.01, "stand_in": "Smaller."}, [0.8] * 3, "method check"),
        ({"claim": 80.0, "tolerance": None, "factor": 1.5}, [120.0] * 3, "reproduced"),
        ({"claim": 80.0, "tolerance": None, "factor": 1.5}, [121.0] * 3, "not reproduced"),
        ({"claim": 80.0, "tolerance": None, "factor": 1.5}, [53.0] * 3, "not reproduced"),
        ({"claim": 80.0, "tolerance": None, "factor": 1.5}, [54.0] * 3, "reproduced"),
    ],
)
def test_a_mean_agrees_or_does_not(tmp_path: Path, paper: dict[str, object], values: list[float | None], status: str) -> None:
    assert verdict(row(tmp_path, "row", **paper), values).status == status


def test_a_method_check_says_whether_it_holds(tmp_path: Path) -> None:
    made = row(tmp_path, "row", claim=0.9, tolerance=0.01, stand_in="Smaller.")
    assert tables.status_words(verdict(made, [0.9] * 3)) == "method check: holds"
    found = verdict(made, [0.8] * 3)
    assert tables.status_words(found) == "method check: does not hold"
    assert found.why == "Smaller. Ours is off by -0.1, more than 0.01."


def test_a_target_that_was_not_reached_is_no_number(tmp_path: Path) -> None:
    made = row(tmp_path, "row", metric="rounds_to:test.accuracy", target=0.97, claim=80.0, tolerance=None, factor=1.5)
    found = verdict(made, [80.0, None, 81.0])
    assert (found.status, found.why) == ("not reproduced", "The target 0.97 was not reached on 1 of 3 seeds.")
    assert tables.shown([found])[1][3] == "not reached on 1 of 3 seeds; 80, 81"


def test_an_order_holds_on_every_common_seed(tmp_path: Path) -> None:
    plain = row(tmp_path, "plain")
    above = row(tmp_path, "above", claim=None, tolerance=None, above="plain")
    by = row(tmp_path, "by", claim=None, tolerance=None, above="plain", by=0.05)
    assert verdict(above, [0.9, 0.8, 0.7], plain=(plain, [0.8, 0.7, 0.6])).status == "reproduced"
    assert verdict(by, [0.9, 0.8, 0.62], plain=(plain, [0.8, 0.7, 0.6])).why == "It is above plain on 2 of 3 seeds."
    assert verdict(above, [0.9, 0.8, 0.5], plain=(plain, [0.1, 0.1, 0.5])).status == "not reproduced"
    assert verdict(above, [0.9] * 3, plain=(plain, [0.8] * 2)).status == "not run"
    alone = verdicts({"above": above, "plain": plain}, {"above": result(above, [0.9] * 3)})[0]
    assert (alone.status, alone.why) == ("not run", "it is compared with plain, which was not run")


def test_fewer_rounds_are_below_a_target_that_was_not_reached(tmp_path: Path) -> None:
    rounds = {"metric": "rounds_to:test.accuracy", "target": 0.97, "claim": None, "tolerance": None}
    slow = row(tmp_path, "slow", **{**rounds, "claim": 90.0, "factor": 2.0})
    fast = row(tmp_path, "fast", **{**rounds, "below": "slow"})
    assert verdict(fast, [80.0] * 3, slow=(slow, [None] * 3)).status == "reproduced"
    assert verdict(fast, [None] * 3, slow=(slow, [None] * 3)).status == "not reproduced"


def test_every_cell_must_agree(tmp_path: Path) -> None:
    cells = [{"name": "a", "claim": 0.9}, {"name": "b", "claim": 0.5}]
    made = row(tmp_path, "row", claim=None, tolerance=0.01, cells=cells)
    assert verdict(made, [0.9] * 3, [0.5] * 3).status == "reproduced"
    found = verdict(made, [0.9] * 3, [0.6] * 3)
    assert (found.status, found.why) == ("not reproduced", "B: ours is off by +0.1, more than 0.01.")
    assert tables.shown([found])[1][2:4] == ["a 90.0 ± 1.0 · b 50.0 ± 1.0", "90.0 [90.0, 90.0] · 60.0 [60.0, 60.0]"]


def test_rounds_to_a_target_follow_the_running_maximum() -> None:
    assert rounds_to([(1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8), (5, 1.0)], 0.95) == pytest.approx(4.5)
    assert rounds_to([(10, 0.5), (20, 0.9)], 0.6) == pytest.approx(12.5)
    assert rounds_to([(10, 0.5), (20, 0.9)], 0.9) == 20
    assert rounds_to([(10, 0.5), (20, 0.9)], 0.4) == 10
    assert rounds_to([(10, 0.5), (20, 0.9)], 0.91) is None
    assert rounds_to([(1, 2.0), (2, 3.0), (3, 1.0)], 1.5, falling=True) == pytest.approx(2.5)
