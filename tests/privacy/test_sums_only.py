"""A price that is a sum's is paid for a sum: aggregators that are none are refused, and so are results that are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixed_updates import Lossy
from own_items.median import Median
from small_runs import SMALL, small
from test_recorded_plans import DPFTRL, privacy

from privfl.errors import ConfigError, PrivacyError
from privfl.running.recording import run

OF_A_SUM: dict[str, dict[str, Any]] = {
    "client_central": {"privacy": privacy("client_central")},
    "client_dpftrl": {"privacy": privacy("client_dpftrl"), "cohort": DPFTRL.cohort.model_dump()},
    "client_distributed": {"privacy": privacy("client_distributed", survivors=3)},
}


@pytest.mark.parametrize("plan", OF_A_SUM)
def test_a_median_is_refused_when_it_is_loaded(plan: str) -> None:
    aggregator: dict[str, Any] = {"kind": "own_items.median"}
    with pytest.raises(ConfigError, match=r"aggregator\.kind = .*(no weighted sum|only inside a secure sum)") as caught:
        small(**OF_A_SUM[plan], aggregator=aggregator)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("promise", [SMALL["privacy"], privacy("client_local"), {"kind": "none"}], ids=lambda one: one["kind"])
def test_a_median_of_what_is_noised_already_is_run(promise: dict[str, Any], tmp_path: Path) -> None:
    folder = run(small(privacy=promise, aggregator={"kind": "own_items.median"}, rounds=1), tmp_path / "run")
    assert folder.result.rounds == 1


def test_an_aggregate_of_its_own_says_anew_that_it_is_a_sum() -> None:
    assert not Median.linear
    assert Lossy.linear


@pytest.mark.parametrize("plan", [SMALL["privacy"], {"kind": "none"}], ids=["example", "none"])
def test_a_result_that_is_missing_without_a_reason_ends_the_run(plan: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"aggregator 'own_items.median' returned mean_D = None and gives no reason"):
        run(small(privacy=plan, aggregator={"kind": "own_items.median", "lossy": True}), tmp_path / "run")


def test_noise_alone_is_not_released_as_a_sum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Median, "linear", True)
    with pytest.raises(PrivacyError, match=r"returned mean_D = None and gives no reason, so nothing was released"):
        run(small(**OF_A_SUM["client_central"], aggregator={"kind": "own_items.median", "lossy": True}), tmp_path / "run")
