"""Buffered and asynchronous rounds: exact schedules, weights, sensitivity, prices, and runs that were interrupted."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import Given, turns
from scipy.stats import norm
from small_runs import small

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, PrivacyError
from privfl.federation.paces import Course, Turn
from privfl.federation.paces._in_flight import Flight
from privfl.federation.paces.asynchronous import Asynchronous
from privfl.federation.paces.buffered import Buffered
from privfl.learning.training import LocalWork
from privfl.privacy.cohorts.fixed import Fixed
from privfl.privacy.cohorts.separated import Separated
from privfl.records import RoundRecord, TimingRecord
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.pricing import account
from privfl.running.recording import run
from privfl.running.timing import planned_turns
from privfl.seeding import Seed

PLAIN: dict[str, Any] = {
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "cohort": {"kind": "fixed", "size": 6},
    "clock": {"kind": "lognormal", "sigma": 1.0},
    "pace": {"kind": "buffered", "size": 3},
}
CLIENT = {"noise_multiplier": 1.5, "delta": 0.01, "max_update_norm": 0.1}
DPFTRL = {
    "privacy": {"kind": "client_dpftrl", "bands": 1, **CLIENT},
    "cohort": {"kind": "separated", "size": 3, "separation": 3},
    "pace": {"kind": "buffered", "size": 2},
}


def config_of(**changes: Any) -> ExperimentConfig:
    return small(**{**PLAIN, **changes})


# --- schedules -----------------------------------------------------------------------------------------------------------


def test_groups_and_staleness_of_a_schedule_by_hand() -> None:
    """Three clients in flight that take 1, 2 and 5 seconds, in groups of two.

    Client 0 is done at 1 and 1 at 2, which is the first group. Both begin anew, and are done at 3 and 4. They begin once more;
    at 5, client 0 and client 2 are done, the latter from the first model. At 6 it is 1, from the third model, and 0 again.
    """
    found = turns(Buffered(kind="buffered", size=2), (1.0, 2.0, 5.0), 4)
    assert found == [
        Turn((0, 1), ends=2.0),
        Turn((0, 1), ends=4.0),
        Turn((0, 2), staleness={2: 2}, ends=5.0),
        Turn((0, 1), staleness={1: 1}, ends=6.0),
    ]
    single = turns(Asynchronous(kind="asynchronous"), (1.0, 2.0, 5.0), 3)
    # At 2, clients 0 and 1 are done at one moment: 1 is applied after 0, and is stale by the rounds of 0 at 1 and at 2.
    assert single == [Turn((0,), ends=1.0), Turn((0,), ends=2.0), Turn((1,), staleness={1: 2}, ends=2.0)]


@pytest.mark.parametrize("sampler", [Fixed(kind="fixed", size=6), Separated(kind="separated", size=6, separation=4)])
@pytest.mark.parametrize("group", [1, 4, 6])
def test_no_training_is_lost_or_counted_twice(sampler: Any, group: int) -> None:
    """Trainings begun = updates in groups + waiting + in flight; nobody is in two places; and separation is kept."""
    clients, rounds, rests = 40, 300, sampler.min_separation or 1
    seconds = np.exp(np.random.default_rng(3).standard_normal(clients))
    clock = Given(kind="given", seconds=tuple(seconds))
    course = Course(clients, rounds, sampler, Seed(1), clock, Seed(2), np.ones(clients), 1)
    flight, summed, last = Flight(group, course), Counter[int](), dict[int, int]()
    now = 0.0
    for number in range(rounds):
        turn = flight.turn(number)
        assert len(set(turn.clients)) == group
        assert turn.ends is not None
        assert turn.ends >= now
        assert all(number - last.get(client, -rests) >= rests for client in turn.clients)
        assert all(0 < staleness <= number for staleness in turn.staleness.values())
        now = turn.ends
        summed.update(turn.clients)
        last.update(dict.fromkeys(turn.clients, number))
        places = [client for _, client, _ in flight.training] + [client for client, _ in flight.done]
        assert len(places) == len(set(places))
        assert flight.begun == summed + Counter(places)
    # Each training took its client's own time: nobody has done more than there was time for.
    assert all(summed[client] * seconds[client] <= now * (1 + 1e-9) for client in range(clients))


@pytest.mark.parametrize(
    "cohort", [{"kind": "fixed", "size": 4}, {"kind": "all"}, {"kind": "separated", "size": 3, "separation": 3}]
)
def test_equal_durations_and_a_buffer_of_the_cohort_s_size_are_synchronous_rounds_to_the_bit(cohort: Any) -> None:
    size = int(cohort.get("size", 10))
    changes = {"cohort": cohort, "server": {"kind": "fedadam", "lr": 0.1}, "algorithm": {"kind": "fedprox", "mu": 0.5}}
    buffered = assemble(config_of(**changes, clock="constant", pace={"kind": "buffered", "size": size}))
    synchronous = assemble(config_of(**changes, clock="constant", pace="synchronous"))
    assert buffered.timetable == synchronous.timetable
    with deterministic():
        assert torch.equal(buffered.train(), synchronous.train())


def test_a_shorter_run_is_the_beginning_of_a_longer_one_and_no_example_moves_the_schedule() -> None:
    long, short = (assemble(config_of(rounds=rounds)) for rounds in (12, 5))
    assert long.timetable.turns[:5] == short.timetable.turns
    assert assemble(config_of(rounds=5, seed=1)).timetable != short.timetable
    other = replace(short.data, member_N=~short.data.member_N)
    assert planned_turns(short.config, other, short.seed, short.secret, "") == short.timetable


# --- what is trained, and sent -------------------------------------------------------------------------------------------


def rounds_of(experiment: Experiment) -> Any:
    """Each round: the state before it, its turn, and its outcome with the server's view."""
    state = experiment.initial_state()
    for turn in experiment.timetable.turns:
        outcome = experiment.step(state, observed=True)
        yield state, turn, outcome
        state = outcome.state


@pytest.mark.parametrize("algorithm", ["fedavg", {"kind": "fedprox", "mu": 0.5}])
def test_a_stale_client_sends_its_update_of_the_older_model_times_its_weight(algorithm: Any) -> None:
    experiment, stale = (
        assemble(config_of(rounds=8, algorithm=algorithm, training={**PLAIN["training"], "engine": "opacus"})),
        0,
    )
    models = list[torch.Tensor]()
    with deterministic():
        for state, turn, outcome in rounds_of(experiment):
            models.append(state.global_D)
            assert set(state.versions) == {
                later - staleness
                for later, other in enumerate(experiment.timetable.turns)
                for staleness in other.staleness.values()
                if later - staleness < state.round <= later
            }
            task, updates_KD = experiment.tasks(state), outcome.aggregate.seen["updates_KD"]
            for place, client in enumerate(turn.clients):
                staleness = turn.staleness.get(client, 0)
                own = replace(task(client), work=LocalWork(mu=experiment.algorithm.work({}, {}).mu))
                (alone,) = experiment.trainer.train(models[state.round - staleness], [own])
                weight = 1 / math.sqrt(1 + staleness)
                assert torch.equal(updates_KD[place], alone.delta_D * weight)
                stale += staleness > 0
    assert stale >= 5


def test_fedasync_mixes_the_client_s_model_into_the_global_one() -> None:
    """x ← (1 − a) x + a y with a = 0.6 (1 + s)^−0.5."""
    experiment, stale = assemble(config_of(rounds=8, pace={"kind": "asynchronous"})), 0
    models = list[torch.Tensor]()
    with deterministic():
        for state, turn, outcome in rounds_of(experiment):
            models.append(state.global_D)
            (client,) = turn.clients
            staleness = turn.staleness.get(client, 0)
            start_D = models[state.round - staleness]
            own = replace(experiment.tasks(state)(client), work=LocalWork())
            (alone,) = experiment.trainer.train(start_D, [own])
            rate = 0.6 / math.sqrt(1 + staleness)
            mixed_D = (1 - rate) * state.global_D.double() + rate * (start_D + alone.delta_D).double()
            assert float((outcome.state.global_D - mixed_D).abs().max()) < 1e-6
            stale += staleness > 0
    assert stale >= 4


# --- privacy -------------------------------------------------------------------------------------------------------------


def test_no_message_of_a_group_is_longer_than_the_clipping_norm_times_its_weight() -> None:
    """The server's view under correlated noise, which the server adds itself, is of clipped messages without noise."""
    experiment, bound, stale = assemble(config_of(rounds=8, **DPFTRL)), CLIENT["max_update_norm"], 0
    with deterministic():
        for _, turn, outcome in rounds_of(experiment):
            norms_K = outcome.aggregate.seen["updates_KD"].double().norm(dim=1)
            for client, length in zip(turn.clients, norms_K.tolist(), strict=True):
                weight = 1 / math.sqrt(1 + turn.staleness.get(client, 0))
                # Updates of the digits are longer than the norm, so that each is clipped.
                assert length == pytest.approx(bound * weight, rel=1e-5)
                assert length <= bound * (1 + 1e-6)
                stale += client in turn.staleness
    assert stale >= 3


@pytest.mark.parametrize("weight", [1.5, 0.0, -1.0, math.nan])
def test_a_weight_that_would_stretch_a_clipped_message_is_refused(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Buffered, "weight", lambda *_: weight)
    with deterministic(), pytest.raises(PrivacyError, match="an update exceed its clipping norm; nothing was sent"):
        list(rounds_of(assemble(config_of(rounds=8, **DPFTRL))))


def gaussian_delta(epsilon: float, mu: float) -> float:
    """δ(ε) of one Gaussian release with sensitivity over noise μ (Balle and Wang 2018, theorem 8)."""
    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


def test_the_price_of_buffered_rounds_is_that_of_gaussian_releases_without_amplification() -> None:
    """With one band the noise is independent: 6 rounds at a separation of 3 are at most two releases, so μ = √2 / z."""
    price = account(config_of(rounds=6, **DPFTRL))
    cohorts = price.experiment.cohorts
    for client in range(10):
        rounds = [number for number, cohort in enumerate(cohorts) if client in cohort]
        assert all(after - before >= 3 for before, after in pairwise(rounds))
        assert len(rounds) <= 2
    assert gaussian_delta(price.epsilon, math.sqrt(2) / 1.5) == pytest.approx(0.01, rel=1e-3)
    local = account(config_of(rounds=6, privacy={"kind": "client_local", **CLIENT}))
    times = Counter(client for cohort in local.experiment.cohorts for client in cohort)
    assert sum(times.values()) == 18
    for client, epsilon in enumerate(local.epsilon_clients):
        if times[client]:
            assert gaussian_delta(epsilon, math.sqrt(times[client]) / 1.5) == pytest.approx(0.01, rel=1e-3)
        else:
            assert epsilon == 0.0


def test_a_run_spends_what_was_priced_and_a_group_is_the_roster_of_its_secure_sum(tmp_path: Path) -> None:
    example = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}
    config = config_of(rounds=5, privacy=example, aggregator={"kind": "secure_sum"})
    folder, priced = run(config, tmp_path / "run"), account(config)
    assert folder.result.privacy is not None
    assert folder.result.privacy.epsilon == priced.epsilon
    for record, turn in zip(folder.rounds(), priced.experiment.timetable.turns, strict=True):
        assert (record.cohort, record.survivors) == (list(turn.clients), list(turn.clients))
        assert (record.staleness, record.ends) == (turn.staleness, turn.ends)


# --- runs that were interrupted ------------------------------------------------------------------------------------------


class KilledError(Exception):
    """An end at that round."""


@pytest.mark.parametrize("pace", [{"kind": "buffered", "size": 3}, {"kind": "asynchronous"}], ids=["buffered", "asynchronous"])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(pace: Any, tmp_path: Path) -> None:
    """Older models are in the state that a run is resumed from."""
    config = config_of(rounds=7, pace=pace)

    def killed_at(number: int) -> Any:
        def observe(record: RoundRecord, timing: TimingRecord) -> None:
            if record.round == number:
                raise KilledError

        return observe

    run(config, tmp_path / "whole")
    for number in (1, 4):
        with pytest.raises(KilledError):
            run(config, tmp_path / str(number), observer=killed_at(number))
        run(config, tmp_path / str(number), resume=True)
        for name in ("rounds.jsonl", "model.safetensors", "state.safetensors", "ledger.jsonl"):
            assert (tmp_path / str(number) / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- bad input -----------------------------------------------------------------------------------------------------------

CENTRAL = {"kind": "client_central", **CLIENT}
ASYNCHRONOUS = {"pace": {"kind": "asynchronous"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pace": {"kind": "buffered", "size": 7}}, "pace.size = 7: a buffer must not be larger than the number of clients in"),
        ({"clock": "untimed"}, "clock.kind = 'untimed': pace 'buffered' needs to know how long clients take"),
        ({"algorithm": "scaffold"}, "algorithm.kind = 'scaffold': with pace 'buffered' clients train from older models"),
        ({"privacy": CENTRAL}, "privacy.kind = 'client_central': its price counts on cohorts that are drawn at random"),
        (
            {"pace": {"kind": "buffered", "size": 2}, "aggregator": "secure_sum"},
            "needs at least 3 clients in a sum, and pace 'buffered' sums 2; set pace.size to at least 3",
        ),
        ({"pace": {"kind": "buffered", "size": 3, "exponent": -0.5}}, "pace.exponent = -0.5"),
        (
            {**ASYNCHRONOUS, "aggregator": "secure_sum"},
            "aggregator.kind = 'secure_sum': needs at least 3 clients in a sum, and pace 'asynchronous' sums 1; "
            "set aggregator.kind = 'mean', or pace.kind = 'buffered'",
        ),
        ({**ASYNCHRONOUS, "privacy": CENTRAL}, "protects a sum of several updates, and pace 'asynchronous' applies one at"),
        (
            {**ASYNCHRONOUS, "privacy": DPFTRL["privacy"], "cohort": DPFTRL["cohort"]},
            "set 'example' or 'client_local', or pace.kind = 'buffered'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_when_it_is_loaded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as found:
        config_of(**changes)
    assert message in str(found.value)
