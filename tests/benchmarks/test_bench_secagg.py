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


def test_safety_is_measured_each_way(bench: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    flat: dict[str, float] = {}
    bench["safety"](flat, 1, (10,), 50)
    assert flat["active_over_semi_honest.client"] == flat["active_over_semi_honest.client_n10"] > 0
    assert flat["active_over_semi_honest.server"] > 0
    # Tags of ten shares, and of those in nine boxes; of ten clients nine answered to the end.
    up, down = (flat[f"safety_n10_semi_honest_{way}_bytes"] - flat[f"safety_n10_before_{way}_bytes"] for way in ("up", "down"))
    assert (up, down) == pytest.approx((32 * 10 * 10 / 9, 32 * 9 * 10 / 9))
    assert flat["safety_n10_active_up_bytes"] > flat["safety_n10_semi_honest_up_bytes"]
    assert "10, before" in capsys.readouterr().out


class _WRONG:
    words_D = [0] * 51
    survivors = range(8)
