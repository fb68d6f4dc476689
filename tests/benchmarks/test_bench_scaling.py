"""How a round's cost grows, held by counts: bytes that it writes, and prices that it has computed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL: dict[str, int] = {"rounds": 8, "clients": 200, "cohort": 5, "parameters": 100}
LARGER = {"clients": 20_000, "cohort": 50, "parameters": 10_000}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(FOLDER)
    return runpy.run_path(str(FOLDER / "bench_scaling.py"))


def halves(values_R: list[int]) -> NDArray[np.float64]:
    """The means of the first and of the second half."""
    return np.array([np.mean(half) for half in np.array_split(np.array(values_R), 2)])


@pytest.mark.parametrize("secure", [False, True], ids=["mean", "secure"])
@pytest.mark.parametrize("private", [False, True], ids=["none", "private"])
def test_a_round_costs_no_more_as_rounds_go_by(bench: dict[str, Any], secure: bool, private: bool) -> None:
    """Sixty rounds; were the first ones written again with each, the second half would write three times as much."""
    found = bench["measure"](bench["Case"](**{**SMALL, "rounds": 60}, secure=secure, private=private))
    assert bench["GROWTH"]["bytes"]["rounds"] == bench["GROWTH"]["prices"]["rounds"] == "flat"
    first, second = halves(found.bytes_R)
    # Cohorts are drawn at random, and numbers get longer.
    assert second < 1.1 * first
    early, late = halves(found.prices_R)
    assert late <= early <= 2
    assert (early > 0) == private


def test_a_round_costs_no_more_with_more_clients_and_as_much_more_as_the_cohort_and_the_model_are_larger(
    bench: dict[str, Any],
) -> None:
    base = bench["measure"](bench["Case"](**SMALL))
    for axis, size in LARGER.items():
        found = bench["measure"](bench["Case"](**{**SMALL, axis: size}))
        assert np.mean(found.prices_R) <= 2
        times = np.mean(found.bytes_R) / np.mean(base.bytes_R)
        if bench["GROWTH"]["bytes"][axis] == "flat":
            assert times < 1.2, axis
        else:
            assert 1.2 < times <= size / SMALL[axis], axis


def test_bytes_are_counted_once_where_they_are_appended(bench: dict[str, Any], tmp_path: Path) -> None:
    from privfl.records import StageSeconds
    from privfl.storage import append_line, write_atomic

    line = StageSeconds(stage="x", client=0.0, server=0.0)
    with bench["_written_bytes"]() as written:
        for _ in range(3):
            append_line(tmp_path / "lines", line)
            write_atomic(tmp_path / "whole", b"1234")
    assert written == [(tmp_path / "lines").stat().st_size + 3 * 4]


def test_the_named_figure_compares_the_ends(bench: dict[str, Any]) -> None:
    found = bench["Measured"](seconds_R=[1.0] * 10 + [5.0] * 80 + [3.0] * 10)
    assert found.last_over_first == 3.0
    assert found.ms == 5000.0
