"""The benchmark of the protocol plays real rounds, and its stand-ins give the server the work of real ones."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(FOLDER)
    return runpy.run_path(str(FOLDER / "bench_secagg.py"))


def test_a_round_of_real_clients_is_checked(bench: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    played = bench["play_round"](10, 50, 0.2, bench["COMPLETE"])
    # A self mask of each of 8 survivors, and each of theirs with the two who were lost.
    assert (played.masks_client, played.masks_server) == (10, 8 + 16)
    assert played.client > 0 < played.server()
    monkeypatch.setitem(bench["play_round"].__globals__, "play", lambda *_: _WRONG)
    with pytest.raises(SystemExit, match="no figure of this run can be believed"):
        bench["play_round"](10, 50, 0.2, bench["COMPLETE"])


def test_stand_ins_leave_the_server_its_work(bench: dict[str, Any]) -> None:
    real, made = (bench["play_round"](10, 50, 0.2, bench["COMPLETE"], real=count) for count in (None, 1))
    assert (made.masks_client, made.masks_server) == (real.masks_client, real.masks_server)
    assert (made.bytes_up, made.bytes_down) == (real.bytes_up, real.bytes_down)
    assert {stage: cost.answers for stage, cost in made.meter.stages.items()} == {
        stage: cost.answers for stage, cost in real.meter.stages.items()
    }


class _WRONG:
    words_D = [0] * 51
    survivors = range(8)
