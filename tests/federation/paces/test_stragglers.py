"""Stragglers of FedProx: who straggles, how much work is kept, and what it costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import small
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, PrivacyError
from privfl.federation.lateness import planned_with
from privfl.federation.paces import Timetable
from privfl.federation.paces.stragglers import Stragglers
from privfl.privacy.events import LocalTraining, NoisyUpdate
from privfl.privacy.plans import require_planned
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment

TRAINING = {"batch_size": 16, "lr": 0.1}
PLAIN: dict[str, Any] = {
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "cohort": {"kind": "fixed", "size": 10},
}


def config_of(share: float, late: str = "partial", epochs: int = 5, **changes: Any) -> ExperimentConfig:
    tables = {**PLAIN, "training": {**TRAINING, "local_epochs": epochs}, **changes}
    return small(pace={"kind": "stragglers", "share": share, "late": late}, **tables)


def final(config: ExperimentConfig) -> Tensor:
    with deterministic():
        return assemble(config).train()


def turns(config: ExperimentConfig) -> Any:
    return assemble(config).timetable.turns


@pytest.mark.parametrize(("share", "in_time"), [(0.9, 1), (0.5, 5), (0.04, 10)])
def test_their_number_is_that_of_fedprox_and_their_epochs_are_below_e(share: float, in_time: int) -> None:
    """FedProx's code keeps round(m (1 − share)) of the selected clients, and draws the others' epochs from [1, E)."""
    found = turns(config_of(share, rounds=200))
    assert {10 - len(turn.work) for turn in found} == {in_time}
    epochs = Counter(done for turn in found for done in turn.work.values())
    assert set(epochs) <= {1, 2, 3, 4}
    if share == 0.9:
        # 1,800 draws: each of 4 values is expected 450 times, with a deviation of 18.4. Beyond 6 deviations: 8e-9 in all.
        assert all(abs(times - 450) < 111 for times in epochs.values())
        whole = Counter(client for turn in found for client in turn.clients if client not in turn.work)
        # Each of 10 clients is in time 20 of 200 times, with a deviation of 4.2.
        assert all(0 < whole[client] < 46 for client in range(10))


def test_both_ways_have_the_same_stragglers_and_a_shorter_run_is_the_beginning_of_a_longer_one() -> None:
    partial, dropped = turns(config_of(0.7)), turns(config_of(0.7, "drop"))
    assert [tuple(turn.work) for turn in partial] == [turn.late for turn in dropped]
    assert [sorted([*turn.clients, *turn.late]) for turn in dropped] == [list(turn.clients) for turn in partial]
    assert turns(config_of(0.7, rounds=2)) == partial[:2]
    assert turns(config_of(0.7, seed=1)) != partial


def test_work_that_is_cut_is_the_beginning_of_the_whole() -> None:
    """Of E = 2 epochs every straggler does 1: the run is that with one epoch, to the bit."""
    assert torch.equal(final(config_of(1.0, epochs=2)), final(small(**PLAIN, training={**TRAINING, "local_epochs": 1})))
    steps = {**PLAIN, "training": {**TRAINING, "local_steps": 2}}
    cut = small(pace={"kind": "stragglers", "share": 1.0}, **steps)
    assert torch.equal(final(cut), final(small(**PLAIN, training={**TRAINING, "local_steps": 1})))
    assert not torch.equal(final(cut), final(small(**steps)))


def test_a_straggler_that_is_dropped_is_not_trained() -> None:
    """A round is that of the clients that are left."""
    experiment = assemble(config_of(0.7, "drop", rounds=1))
    (turn,) = experiment.timetable.turns
    with deterministic():
        outcome = experiment.step(experiment.initial_state())
    assert tuple(outcome.participants) == turn.clients
    assert len(turn.clients) == 3


EXAMPLE = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}


def spent(experiment: Experiment) -> Any:
    with deterministic():
        return experiment.step(experiment.initial_state()).events


@pytest.mark.parametrize(("engine", "late"), [("fused", "partial"), ("fused", "drop"), ("opacus", "partial")])
def test_cut_work_is_charged_as_the_whole_and_dropped_work_not_at_all(engine: str, late: str) -> None:
    """Under example-level noise; the run's price is the one that was known before it."""
    training = {**TRAINING, "local_epochs": 2, "engine": engine}
    experiment = assemble(config_of(0.8, late, privacy=EXAMPLE, training=training, rounds=1))
    (turn,) = experiment.timetable.turns
    assert spent(experiment) == experiment.planned(0)
    assert set(experiment.planned(0)) == set(turn.clients)
    sizes = experiment.data.sizes()
    assert experiment.planned(0) == {client: experiment.plan.planned(int(sizes[client])) for client in turn.clients}


def test_a_training_of_any_other_length_is_no_part_of_the_plan() -> None:
    planned = LocalTraining(sample_rate=0.1, steps=30, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=16.0)
    ten = planned.model_copy(update={"steps": 10})
    require_planned(ten, planned_with(planned, 10), "client 0")
    for done, steps in ((planned, 10), (ten, None), (ten, 11), (planned.model_copy(update={"steps": 31}), 31)):
        with pytest.raises(PrivacyError, match="was planned; nothing was sent"):
            require_planned(done, planned_with(planned, steps), "client 0")
    update = NoisyUpdate(noise_multiplier=1.0, max_update_norm=1.0)
    assert planned_with(update, 10) is update
    assert planned_with(None, 10) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, "pace.kind = 'stragglers': training.local_epochs = 1 leaves nothing to cut"),
        ({"training": {**TRAINING, "local_steps": 1}}, "pace.kind = 'stragglers': training.local_steps = 1 leaves nothing"),
        ({"share": 0.96, "late": "drop"}, "pace.share = 0.96: drops everybody in every round; lower it, or set pace.late"),
        ({"late": "drop", "aggregator": {"kind": "secure_sum"}}, "needs cohorts of at least 3 clients, and the largest has 1"),
        ({"share": 1.1}, "pace.share = 1.1"),
        ({"late": "some"}, "pace.late = 'some'"),
        (
            {"privacy": {"kind": "client_central", "noise_multiplier": 1.0, "delta": 0.01, "max_update_norm": 1.0}},
            "assumes that a client's coming changes nobody else's work; set pace.kind = 'deadline'",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as found:
        config_of(**{"share": 0.9, **changes})
    assert message in str(found.value)


def test_the_words_say_what_becomes_of_them() -> None:
    assert Stragglers(kind="stragglers", share=0.9).words() == "90% of them straggle and do a part of their work"
    assert "are dropped" in Stragglers(kind="stragglers", share=0.5, late="drop").words()


@pytest.mark.parametrize(
    "algorithm", [{"kind": "fedrep", "head_share": 0.5}, {"kind": "ditto", "strength": 0.3}, {"kind": "pfedme"}]
)
def test_every_part_of_a_client_s_training_is_cut(algorithm: dict[str, Any]) -> None:
    """Also what an algorithm trains step by step or beside the upload: the run is that with half of the steps, to the bit."""
    steps, cut = {**TRAINING, "local_steps": 6}, {}
    for client in range(10):
        cut[client] = 3
    long, short = (
        assemble(small(**PLAIN, training=steps, algorithm=algorithm, rounds=2, model="mlp")),
        {**TRAINING, "local_steps": 3},
    )
    timetable = Timetable(tuple(replace(turn, work=cut) for turn in long.timetable.turns))
    brief = assemble(small(**PLAIN, training=short, algorithm=algorithm, rounds=2, model="mlp"))
    states = []
    with deterministic():
        for one in (replace(long, timetable=timetable), brief):
            state = one.initial_state()
            for _ in range(2):
                state = one.step(state).state
            states.append(state)
    assert torch.equal(states[0].global_D, states[1].global_D)
    for client, ours in states[0].clients.items():
        for name, value in ours.personal.items():
            assert torch.equal(value, states[1].clients[client].personal[name]), name
