"""Plans that cannot be kept are refused: when they are loaded, or before anything is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from small_runs import SMALL, small
from test_recorded_plans import DPFTRL, privacy

from privfl.errors import ConfigError
from privfl.running.assembling import assemble
from privfl.running.pricing import account
from privfl.running.recording import run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"privacy": privacy("client_distributed", survivors=3), "aggregator": "mean"},
            r"aggregator\.kind = 'mean'.*secure_sum",
        ),
        (
            {"privacy": privacy("client_distributed", survivors=6)},
            r"privacy\.survivors = 6: with 1 corrupt clients needs 7 in the sum, but of a cohort of 5",
        ),
        (
            {
                "privacy": privacy("client_distributed", survivors=4),
                "aggregator": {"kind": "secure_sum", "max_dropout": 0.4, "max_corrupt": 0.0},
            },
            r"survivors = 4: .* needs 5 in the sum, but of a cohort of 5 aggregator\.max_dropout lets 2 be lost; lower it",
        ),
        *(
            (
                {"privacy": {"kind": "none"}, "aggregator": "secure_sum", **few},
                r"aggregator\.kind = 'secure_sum': needs cohorts of at least 3 clients",
            )
            for few in (
                {"cohort": {"kind": "fixed", "size": 2}},
                {"cohort": {"kind": "all"}, "data": {"kind": "digits", "clients": 2}},
            )
        ),
        (
            {"privacy": {"kind": "none"}, "aggregator": {"kind": "secure_sum", "security_bits": 20}},
            r"aggregator\.security_bits = 20: .*must be in \[40, 128\]",
        ),
        (
            {"privacy": {"kind": "none"}, "aggregator": {"kind": "secure_sum", "roster_share": 0.4}},
            r"aggregator\.roster_share = 0.4: .*must be in \(0.5, 1\]",
        ),
        ({"privacy": privacy("client_local", clipping="adaptive")}, r"clipping\.kind = 'adaptive'.*client_central"),
        ({"privacy": privacy("client_dpftrl", clipping="adaptive")}, r"clipping\.kind = 'adaptive'.*one norm"),
        ({"privacy": privacy("client_dpftrl")}, r"cohort\.kind = 'poisson'.*'separated'"),
        (
            {"privacy": privacy("client_dpftrl", bands=4), "cohort": {"kind": "separated", "size": 3, "separation": 3}},
            r"privacy\.bands = 4: must be at most cohort\.separation = 3",
        ),
        (
            {"privacy": privacy("client_dpftrl", randomness="secure"), "cohort": DPFTRL.cohort.model_dump()},
            r"randomness = 'secure'.*not on a grid",
        ),
        ({"cohort": {"kind": "separated", "size": 4, "separation": 3}}, r"separation = 3.*need 12 clients"),
        (
            {"privacy": privacy("client_central"), "cohort": {"kind": "separated", "size": 3, "separation": 3}},
            r"cohort\.kind = 'separated'.*in secret",
        ),
        ({"privacy": privacy("client_central", delta=0.1)}, r"delta = 0\.1: must be below 1/N = 1/10"),
        (
            {"privacy": privacy("client_central", delta=1e-6, imagined={"population": 1_000_000, "cohort": 5000})},
            r"delta = 1e-06: must be below 1/1000000, one over privacy\.imagined\.population",
        ),
        (
            {"privacy": privacy("client_central", imagined={"population": 9, "cohort": 10})},
            r"at most imagined\.population",
        ),
        ({"privacy": privacy("client_central", imagined={"population": 9, "cohort": 4})}, r"at least as large as a 'poisson'"),
    ],
)
def test_an_impossible_plan_is_refused_when_it_is_loaded(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": {**SMALL["privacy"], "delta": 1e-3}}, r"delta = 0\.001: must be below 1/N = 1/14\d\d"),
        (
            {"privacy": privacy("client_central", noise_multiplier=None, target_epsilon=2.0, clipping="adaptive")},
            r"must be below 0\.5.*allow a larger ε",
        ),
        ({"privacy": privacy("client_local", noise_multiplier=None, target_epsilon=1e-5, delta=1e-9)}, "allow a larger ε"),
        (
            {
                "privacy": privacy("client_distributed", survivors=3, noise_multiplier=None, target_epsilon=1e-5, delta=1e-9),
                "cohort": {"kind": "all"},
            },
            r"allow a larger ε or fewer rounds, or more privacy\.bits",
        ),
        (
            {
                "privacy": privacy("client_distributed", mechanism="discrete_gaussian", survivors=3, noise_multiplier=1e-6),
                "cohort": {"kind": "all"},
            },
            r"noise_multiplier = 1e-06: .*must be at least 0\.25; raise it or privacy\.bits",
        ),
        (
            {"privacy": privacy("client_central", max_update_norm=0.01), "aggregator": {"kind": "secure_sum", "bits": 16}},
            r"max_update_norm = 0\.01: .*may move an update by 0\.0\d+; raise it or aggregator\.bits",
        ),
        (
            {
                "privacy": privacy("client_dpftrl", max_update_norm=0.01),
                "cohort": {"kind": "separated", "size": 3, "separation": 3},
                "aggregator": {"kind": "secure_sum", "bits": 16},
            },
            r"max_update_norm = 0\.01: .*raise it or aggregator\.bits",
        ),
        (
            {
                "privacy": privacy("client_central", noise_multiplier=0.3, clipping="adaptive"),
                "aggregator": {"kind": "secure_sum", "clip": 0.25},
            },
            r"clipping\.kind = 'adaptive': .*0\.5 that it counts by; raise aggregator\.bits",
        ),
    ],
)
def test_what_the_data_or_the_price_forbid_is_refused_before_training(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        assemble(small(**changes))
    assert "\n" not in str(caught.value)


def test_a_price_that_is_not_finite_is_refused_before_a_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("privfl.privacy.accounting.epsilon", lambda *_: math.inf)
    with pytest.raises(ConfigError, match=r"^privacy.noise_multiplier: ε by PLD, .*, is not finite at δ = 0.0001"):
        run(small(), tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_tiny_delta_is_priced_whole_and_a_smaller_one_named() -> None:
    """At 1e-18 ε was infinite under replacement, which was found out after training."""
    privacy = {**SMALL["privacy"], "delta": 1e-18}
    priced = account(small(privacy=privacy)).prices
    assert {one.relation for one in priced} == {"add_or_remove_one", "replace_one"}
    assert all(0 < one.epsilon < 1000 for one in priced)
    with pytest.raises(ConfigError, match=r"privacy\.delta = 1e-301: must be at least 1e-300"):
        small(privacy={**privacy, "delta": 1e-301})
