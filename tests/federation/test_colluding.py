"""Attackers that collude: the vectors that they send, exactly, and who sends them."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from small_runs import small
from torch import Tensor

from privfl.errors import ConfigError
from privfl.federation.behaviours._colluding import ColludingBehaviour
from privfl.federation.behaviours.alie import largest_z
from privfl.processes import Alone
from privfl.report.page import run_page
from privfl.report.run_records import RunRecords
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.recording import run
from privfl.seeding import Seed
from privfl.shelves import SHELVES
from privfl.tables import narrow

KINDS = ("alie", "ipm", "min_max", "min_sum")
PLAIN: dict[str, Any] = {"privacy": "none", "aggregator": "mean", "server": {"kind": "fedavg"}, "cohort": {"kind": "all"}}


def attack(kind: str, **settings: Any) -> ColludingBehaviour:
    return narrow(SHELVES["behaviour"].find(kind).model_validate({"kind": kind, "share": 0.3, **settings}), ColludingBehaviour)


def honest(count: int = 5, length: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + torch.randn(count, length, generator=generator, dtype=torch.float64)


def as_rows(updates_FD: Tensor) -> dict[int, Tensor]:
    return {2 * client: row_D.float() for client, row_D in enumerate(updates_FD)}


@pytest.mark.parametrize(
    ("clients", "attackers", "z"),
    [(50, 12, 0.336), (20, 4, 0.157), (100, 20, 0.286), (10, 2, 0.0), (20, 1, 0.0), (3, 2, 0.0), (10, 6, 0.674), (2, 2, 0.0)],
)
def test_z_of_alie_follows_from_the_numbers_of_clients(clients: int, attackers: int, z: float) -> None:
    assert largest_z(clients, attackers) == pytest.approx(z, abs=5e-4)


def test_alie_sends_the_mean_less_some_deviations() -> None:
    rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]])
    deviation_D = torch.tensor([math.sqrt(8 / 3), math.sqrt(8.0)])
    for settings, z in (({"z": 1.5}, 1.5), ({}, largest_z(12, 3))):
        sent = attack("alie", **settings).uploads(as_rows(rows), 12)
        assert sent.keys() == {0, 2, 4}
        for one_D in sent.values():
            assert torch.allclose(one_D, torch.tensor([3.0, 2.0]) - z * deviation_D)
    assert largest_z(12, 3) > 0.13


def test_ipm_sends_the_opposite_of_the_mean() -> None:
    sent = attack("ipm", eps=10.0).uploads({3: torch.tensor([1.0, 2.0]), 8: torch.tensor([3.0, -6.0])}, 10)
    assert {client: one_D.tolist() for client, one_D in sent.items()} == {3: [-20.0, 20.0], 8: [-20.0, 20.0]}


def allowed(kind: str, rows: Tensor) -> tuple[Any, float]:
    """What the condition limits, as a function of a vector, and the limit; written from the paper, pair by pair."""
    if kind == "min_max":
        limit = max(float((one - other).norm()) for one, other in combinations(rows, 2))
        return lambda sent_D: max(float((sent_D - one).norm()) for one in rows), limit
    limit = max(sum(float((one - other).norm() ** 2) for other in rows) for one in rows)
    return lambda sent_D: sum(float((sent_D - one).norm() ** 2) for one in rows), limit


def halving(kind: str, rows: Tensor, deviation_D: Tensor) -> float:
    """γ as the authors' code finds it."""
    measure, limit = allowed(kind, rows)
    gamma, step, good = 10.0, 10.0, 0.0
    while abs(good - gamma) > 1e-5:
        if measure(rows.mean(0) - gamma * deviation_D) <= limit:
            good, gamma = gamma, gamma + step / 2
        else:
            gamma -= step / 2
        step /= 2
    return good


@pytest.mark.parametrize("kind", ["min_max", "min_sum"])
@pytest.mark.parametrize("deviation", ["unit", "sign", "std"])
def test_distances_meet_their_limit_and_the_authors_search_agrees(kind: str, deviation: str) -> None:
    for seed in range(3):
        rows = honest(seed=seed)
        sent_D = attack(kind, deviation=deviation).craft(rows, 20)
        measure, limit = allowed(kind, rows)
        assert measure(sent_D) == pytest.approx(limit, rel=1e-12)
        mean_D = rows.mean(0)
        deviation_D = {"unit": mean_D / mean_D.norm(), "sign": mean_D.sign(), "std": rows.std(0)}[deviation]
        gamma = float((mean_D - sent_D) @ deviation_D / deviation_D.square().sum())
        assert torch.allclose(sent_D, mean_D - gamma * deviation_D, atol=1e-12)
        assert 0.01 < gamma < 20
        assert halving(kind, rows, deviation_D) == pytest.approx(gamma, abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_updates_without_any_spread_are_sent_as_they_are(kind: str) -> None:
    factor = -0.1 if kind == "ipm" else 1.0
    for rows in (honest(1), honest(1).expand(3, -1), torch.zeros(3, 4, dtype=torch.float64)):
        for deviation in [{"deviation": name} for name in ("unit", "sign", "std")] if kind.startswith("min") else [{}]:
            assert torch.allclose(attack(kind, **deviation).craft(rows, 20), factor * rows[0], atol=1e-7)


def first_round(experiment: Experiment) -> Tensor:
    with deterministic():
        aggregate = experiment.step(experiment.initial_state(), observed=True).aggregate
    assert aggregate is not None
    return aggregate.seen["updates_KD"]


def config_of(behaviour: Any, **changes: Any) -> Any:
    return small(**{**PLAIN, "behaviour": behaviour, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_run_all_attackers_send_what_follows_from_their_own_updates(kind: str) -> None:
    # Three parts: attackers of all of them meet.
    parts = {"training": {"local_steps": 2, "batch_size": 8, "lr": 0.2, "parts": 3}}
    right, experiment = (assemble(config_of(of, **parts)) for of in ("honest", {"kind": kind, "share": 0.3}))
    expected, found = first_round(right), first_round(experiment)
    attackers = sorted(experiment.misbehaving)
    behaviour = narrow(experiment.config.behaviour, ColludingBehaviour)
    crafted_D = behaviour.craft(expected[attackers].double(), 10).float()
    for client in range(10):
        assert torch.equal(found[client], crafted_D if client in attackers else expected[client])
    assert len(attackers) == 3
    if kind != "alie":  # With z = 0 it sends the mean.
        assert not torch.allclose(crafted_D, expected[attackers].mean(0), rtol=0.01)


def test_a_cohort_without_attackers_is_that_of_honest_clients() -> None:
    cohort = {"cohort": {"kind": "fixed", "size": 2}}
    right, experiment = (assemble(config_of(of, **cohort)) for of in ("honest", {"kind": "ipm", "share": 0.1, "eps": 10.0}))
    assert not experiment.misbehaving & set(experiment.cohorts[0])
    assert torch.equal(first_round(right), first_round(experiment))


@pytest.mark.parametrize("kind", KINDS)
def test_attackers_collude_under_secure_sums_as_in_the_clear(kind: str) -> None:
    behaviour = {"kind": kind, "share": 0.4}
    clear, secure = (
        assemble(config_of(behaviour, aggregator=aggregator, training={"local_steps": 2, "batch_size": 8, "lr": 0.2}))
        for aggregator in ("mean", {"kind": "secure_sum", "clip": 8.0})
    )
    with deterministic():
        one, other = (each.step(each.initial_state()).state.global_D for each in (clear, secure))
    assert torch.allclose(one, other, atol=1e-3)
    assert not torch.equal(one, clear.initial_D)


def test_the_page_says_whom_a_promise_is_to(tmp_path: Any) -> None:
    privacy = {"kind": "client_central", "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5}
    folder = run(config_of({"kind": "ipm", "share": 0.3}, privacy=privacy, rounds=1), tmp_path / "run")
    assert folder.partition.misbehaving
    assert "the promise is to the other clients only" in run_page(RunRecords.read(folder)).html


@pytest.mark.parametrize(
    ("behaviour", "changes", "said"),
    [
        ({"kind": "alie", "share": 1.0}, {}, r"behaviour\.share = 1\.0: must be less than 1"),
        ({"kind": "alie"}, {}, r"behaviour\.share: is missing"),
        ({"kind": "alie", "share": 0.2, "z": -1.0}, {}, r"behaviour\.z = -1\.0: must be greater than or equal to 0"),
        ({"kind": "ipm", "share": 0.2, "eps": 0.0}, {}, r"behaviour\.eps = 0\.0: must be greater than 0"),
        ({"kind": "min_max", "share": 0.2, "deviation": "norm"}, {}, r"behaviour\.deviation = 'norm'"),
        ({"kind": "min_sum", "share": 0.97}, {}, r"behaviour\.share = 0\.97: all 10 clients become attackers"),
        (
            {"kind": "ipm", "share": 0.2},
            {
                "privacy": {"kind": "client_central", "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5},
                "canaries": {"kind": "client", "count": 10},
            },
            r"behaviour\.kind = 'ipm': attackers agree on what they send",
        ),
    ],
)
def test_impossible_settings_are_refused(behaviour: Any, changes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        assemble(config_of(behaviour, **changes))


class Two(Alone):
    """The first of two processes."""

    size = 2


def test_several_processes_are_refused() -> None:
    two, said = Two(), r"behaviour\.kind = 'alie': 2 processes were started, .*start it without torchrun"
    with pytest.raises(ConfigError, match=said):
        assemble(config_of({"kind": "alie", "share": 0.2}), processes=two)
    assemble(config_of({"kind": "sign_flip", "share": 0.2}), processes=two)


def test_the_choice_of_attackers_is_that_of_other_behaviours() -> None:
    flip = SHELVES["behaviour"].find("sign_flip").model_validate({"kind": "sign_flip", "share": 0.3})
    assert attack("alie").chosen(10, Seed(0)) == flip.chosen(10, Seed(0))
