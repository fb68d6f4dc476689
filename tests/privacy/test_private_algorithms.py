"""Algorithms with state keep what a plan promises: one clip covers a whole payload, and state is made of released values.

Each check is put to code that was broken on purpose as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fixed_updates import CLIP, POPULATION, D, Lossy, central, play, updates
from safetensors.torch import load_file
from small_runs import small
from test_privacy_mutants import Edit, mutate
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.federation import rounds
from privfl.federation.algorithms import Trained
from privfl.federation.algorithms.scaffold import Scaffold
from privfl.federation.client_states import ClientState
from privfl.federation.local_training import Moved
from privfl.federation.server_state import ServerState
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.recording import run

EXAMPLE = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}


def scaffold(**changes: Any) -> ExperimentConfig:
    """A small run of SCAFFOLD under an example-level plan, with everybody."""
    table = {"algorithm": "scaffold", "privacy": EXAMPLE, "server": {"kind": "fedavg"}, "rounds": 3, "cohort": {"kind": "all"}}
    return small(**{**table, **changes})


# --- what one client can move -----------------------------------------------------------------------------------------


def released(deltas: Mapping[int, Tensor], control_D: Tensor) -> Tensor:
    """Both sums that a round of SCAFFOLD releases, joined, from a server whose control variate is ``control_D``."""
    plan, algorithm = central(), Scaffold(kind="scaffold")
    state = algorithm.init(control_D) | {"control": control_D}
    begin = ServerState(0, torch.zeros(D), {}, plan.initial(torch.device("cpu")), state)
    after = play(plan, deltas, state=begin, algorithm=algorithm).state
    # The mean is over plan.size, and the control variate moves by that share of the population.
    moved_D = (after.algorithm["control"].double() - control_D.double()) * POPULATION
    return torch.cat([after.global_D.double() * plan.size, moved_D])


def check_one_client_moves_both_sums_by_the_norm() -> None:
    others, quiet_D = updates(3), torch.zeros(D)
    for control_D in (quiet_D, torch.full((D,), 3.0)):
        for one_D in (torch.full((D,), 1e20), torch.full((D,), 0.01), torch.full((D,), torch.nan)):
            distance = (released({**others, 7: one_D}, control_D) - released(others, control_D)).norm()
            assert float(distance) <= CLIP * (1 + 1e-4) + 1e-4


def test_one_client_moves_both_sums_together_by_no_more_than_the_norm() -> None:
    check_one_client_moves_both_sums_by_the_norm()


CLIP_JOINED = "self.plan.at_client(joined_D, context.layout, state.plan, task.seed, rounding)"
CLIP_UPDATE = (
    "(lambda one: replace(one, delta_D=torch.cat([one.delta_D, joined_D[len(state.global_D):]])))"
    "(self.plan.at_client(joined_D[:len(state.global_D)], context.layout, state.plan, task.seed, rounding))"
)


def test_a_plan_that_clips_the_update_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, Edit(rounds.Round, "_hand_in", CLIP_JOINED, CLIP_UPDATE))
    with pytest.raises(AssertionError):
        check_one_client_moves_both_sums_by_the_norm()


@pytest.mark.parametrize("algorithm", ["scaffold", "fednova", "feddyn"])
def test_an_algorithm_that_keeps_account_of_sums_refuses_an_aggregator_without_one(algorithm: str) -> None:
    changes: dict[str, Any] = {"algorithm": algorithm, "privacy": "none", "aggregator": {"kind": "own_items.median"}}
    with pytest.raises(
        ConfigError, match=rf"aggregator\.kind = 'own_items\.median': algorithm '{algorithm}' needs a weighted mean"
    ):
        small(**changes)
    assert small(**{**changes, "algorithm": "fedavg"}).algorithm.kind == "fedavg"


@pytest.mark.parametrize("algorithm", ["scaffold", "feddyn"])
def test_state_that_tells_who_took_part_is_refused_where_a_price_counts_on_that_secret(algorithm: str) -> None:
    privacy = {"kind": "client_central", "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5}
    with pytest.raises(ConfigError, match=r"cohort\.kind = 'fixed': .* keeps state at clients, so that"):
        small(privacy=privacy, algorithm=algorithm, cohort={"kind": "fixed", "size": 5})
    for cohort in ({"kind": "poisson", "size": 5}, {"kind": "all"}):
        small(privacy=privacy, algorithm=algorithm, cohort=cohort)


# --- drift and state are made of noised values ---------------------------------------------------------------------------


def check_drift_and_state_are_functions_of_messages() -> None:
    """Under an example-level plan: whoever has a client's messages and the global models computes its state from them."""
    experiment = assemble(scaffold(aggregator="mean"))
    state, known = experiment.initial_state(), dict[int, Tensor]()
    for _ in range(3):
        told_D = state.algorithm["control"]
        tasks = [experiment.cohort(state).task(client) for client in range(3)]
        with deterministic():
            results = experiment.trainer.train(state.global_D, [experiment.cohort(state).task(client) for client in range(10)])
            outcome = experiment.step(state, observed=True)
        assert outcome.aggregate is not None
        for task in tasks:
            client, result = task.client, results[task.client]
            before_D = known.get(client, torch.zeros_like(told_D))
            assert task.work.drift_D is not None
            assert torch.equal(task.work.drift_D, told_D - before_D)
            sent_D = outcome.aggregate.seen["updates_KD"][client]
            assert torch.allclose(sent_D, result.delta_D, rtol=1e-4, atol=1e-5)
            mean_D = -sent_D / (experiment.config.training.lr * result.steps)
            known[client] = outcome.state.clients[client].kept["control"]
            assert torch.allclose(known[client], before_D + mean_D - told_D, rtol=1e-5, atol=1e-6)
            sent_control_D = outcome.aggregate.seen["control:updates_KD"][client]
            scale = experiment.terms.lr * experiment.terms.steps
            assert torch.allclose(sent_control_D, (known[client] - before_D) * scale, rtol=1e-4, atol=1e-5)
        state = outcome.state


def test_drift_and_state_are_functions_of_messages() -> None:
    check_drift_and_state_are_functions_of_messages()


@pytest.mark.parametrize(
    "edit",
    [
        # The loss and the share of clipped gradients are known to the client alone, without noise.
        Edit(rounds.Round, "_payload", "keeps = after if", "keeps = {key: one + result.loss for key, one in after.items()} if"),
        Edit(rounds.Round, "_payload", "Trained(result.delta_D,", "Trained(result.delta_D * (1 + result.loss),"),
        Edit(Scaffold, "work", "told[_CONTROL] - client[_CONTROL]", "told[_CONTROL] - 0.9 * client[_CONTROL]"),
    ],
    ids=["state", "message", "drift"],
)
def test_a_raw_value_in_state_message_or_drift_is_found(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, edit)
    with pytest.raises(AssertionError):
        check_drift_and_state_are_functions_of_messages()


def test_an_algorithm_is_given_no_raw_value() -> None:
    assert set(Trained.__dataclass_fields__) == {"delta_D", "gradient_weight", "terms", "global_D", "slot", "start_loss"}
    assert set(Moved.__dataclass_fields__) == {"delta_D", "gradient_weight", "weights_D"}


def test_a_client_s_state_is_in_the_name_of_its_noise_and_in_no_view(tmp_path: Path) -> None:
    experiment = assemble(scaffold())
    with deterministic():
        state = experiment.step(experiment.initial_state()).state
    one = experiment.cohort(state).task(0).seed
    other = {**state.clients, 0: ClientState({"control": state.clients[0].kept["control"] + 1e-7})}
    assert experiment.cohort(replace(state, clients=other)).task(0).seed != one
    assert experiment.cohort(replace(state, clients=other)).task(1).seed == experiment.cohort(state).task(1).seed
    told = replace(state, algorithm=state.algorithm | {"control": state.algorithm["control"] + 1e-7})
    assert experiment.cohort(told).task(0).seed != one
    folder = run(scaffold(), tmp_path / "run")
    seen = load_file(folder.path / "views" / "round_00002.safetensors")
    assert not any(name.startswith(("of.", "kept", "clients")) for name in seen)
    assert "control:sum_D" in seen


# --- state that goes on --------------------------------------------------------------------------------------------------


def test_a_lost_client_keeps_the_state_that_it_had() -> None:
    aggregator, plan = Lossy(kind="lossy", lost=(1,)), central(sampler="all", size=POPULATION)
    state = play(plan, updates(3), algorithm=Scaffold(kind="scaffold"), aggregator=aggregator).state
    assert sorted(state.clients) == [0, 2]


def test_an_update_that_is_not_finite_leaves_the_state_as_it_was() -> None:
    deltas = {**updates(2), 5: torch.full((D,), torch.inf)}
    state = play(central(), deltas, algorithm=Scaffold(kind="scaffold")).state
    assert not bool(state.clients[5].kept["control"].any())
    assert bool(state.clients[0].kept["control"].any())
