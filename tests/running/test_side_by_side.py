"""Several runs trained as one program are the same runs as one by one."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import SMALL, small
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.data.input_store import InputStore
from privfl.learning.models import Model
from privfl.learning.models._build import built, few
from privfl.learning.training.fused import Fused
from privfl.running import side_by_side
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.tables import narrow

PLAIN = {"kind": "none"}
CENTRAL = {"kind": "client_central", "noise_multiplier": 0.5, "delta": 1e-3, "max_update_norm": 1.0}
MEAN = {"kind": "mean"}
DIGITS = {"kind": "digits", "clients": 1}
MLP = {"kind": "mlp", "hidden": [8]}
MOMENTUM = {"local_epochs": 2, "batch_size": 16, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
SCHEDULED = {"local_epochs": 2, "batch_size": 16, "lr": 0.1, "step_schedule": {"kind": "cosine"}}

CASES: dict[str, dict[str, Any]] = {
    "private": {"aggregator": MEAN},
    "plain, central": {
        "privacy": PLAIN,
        "aggregator": MEAN,
        "data": {"kind": "digits", "clients": 1},
        "cohort": {"kind": "all"},
    },
    "plain, with momentum": {"privacy": PLAIN, "aggregator": MEAN, "training": MOMENTUM, "model": MLP},
    "a schedule over steps": {"privacy": PLAIN, "aggregator": MEAN, "training": SCHEDULED},
    "whole clients": {"privacy": CENTRAL, "aggregator": MEAN},
    "fedprox": {"algorithm": {"kind": "fedprox", "mu": 0.1}, "aggregator": MEAN},
    "scaffold": {"algorithm": {"kind": "scaffold"}, "privacy": PLAIN, "aggregator": MEAN, "server": {"kind": "fedavg"}},
    "ditto": {"algorithm": {"kind": "ditto", "strength": 0.5}, "privacy": PLAIN, "aggregator": MEAN},
    "wrong labels": {"behaviour": {"kind": "label_flip", "share": 0.3}, "privacy": PLAIN, "aggregator": MEAN},
    "scaffold, private": {"algorithm": {"kind": "scaffold"}, "aggregator": MEAN, "server": {"kind": "fedavg"}},
}


def in_doubles(experiment: Experiment) -> Experiment:
    """The same experiment, of which all weights and inputs are float64."""
    item, data = narrow(experiment.config.model, Model), experiment.data
    module = built(item, few(data), experiment.outputs, experiment.seed / "model", data.pool.fields).double()
    config, personal = experiment.config.training, experiment.personal
    return replace(
        experiment,
        x=InputStore(experiment.x[:].double()),
        model=copy.deepcopy(experiment.model).double(),
        initial_D=experiment.initial_D.double(),
        trainer=Fused(module, config, experiment.plan),
        personal=None if personal is None else Fused(module, config, personal.plan),
    )


def shadows(config: ExperimentConfig, count: int, *, doubles: bool) -> list[Experiment]:
    target, draw = assemble(config), np.random.default_rng(0)
    found = [target.shadow(index, target.data.redrawn(draw).member_N) for index in range(count)]
    return [in_doubles(one) for one in found] if doubles else found


def together(experiments: Sequence[Experiment]) -> list[Tensor]:
    """All of them by one trainer, as the shadows of one experiment have it."""
    first = experiments[0]
    return side_by_side.trained([replace(one, trainer=first.trainer, personal=first.personal) for one in experiments])


@pytest.mark.parametrize("name", CASES)
def test_runs_side_by_side_are_those_of_one_by_one(name: str) -> None:
    """In float64 to 1e-9; each has its own members, cohorts, batches and noise."""
    experiments = shadows(small(rounds=3, **CASES[name]), 3, doubles=True)
    with deterministic():
        alone = [one.train() for one in experiments]
        found = together(experiments)
    for one_D, other_D in zip(found, alone, strict=True):
        assert one_D.dtype == torch.float64
        assert float((one_D - other_D).norm()) < 1e-9 * float(other_D.norm())
    assert float((alone[0] - alone[1]).norm()) > 1e-3


@pytest.mark.parametrize("changes", [{}, {"aggregator": MEAN}, {"cohort": {"kind": "poisson", "size": 2}}])
def test_runs_of_rounded_numbers_differ_by_rounding_alone(changes: dict[str, Any]) -> None:
    """By secure aggregation, in the clear, and with rounds in which too few take part."""
    experiments = shadows(small(**changes), 3, doubles=False)
    with deterministic():
        alone, found = [one.train() for one in experiments], together(experiments)
    for one_D, other_D in zip(found, alone, strict=True):
        assert float((one_D - other_D).norm()) < 1e-5 * float(other_D.norm())


def test_a_run_that_stops_early_stops_alone() -> None:
    """Validation losses are each run's own."""
    training = {**SMALL["training"], "early_stopping": {"patience": 1, "validation": 0.5}, "lr": 4.0}
    experiments = shadows(small(rounds=6, training=training, privacy=PLAIN, aggregator=MEAN), 4, doubles=True)
    steps: list[int] = []
    with deterministic():
        for one in experiments:
            state, losses = one.initial_state(), list[float | None]()
            while state.round < 6 and not one.ended(losses):
                outcome = one.step(state)
                losses.append(one.validation_loss(outcome))
                state = outcome.state
            steps.append(state.round)
        alone, found = [one.train() for one in experiments], together(experiments)
    assert len({*steps}) > 1
    for one_D, other_D in zip(found, alone, strict=True):
        assert float((one_D - other_D).norm()) < 1e-9 * float(other_D.norm())


def test_a_start_that_were_forgotten_would_show() -> None:
    """If all runs began their rounds with one global model, the others' results would be far away."""
    experiments = shadows(small(aggregator=MEAN, rounds=2), 2, doubles=True)
    with deterministic():
        alone = experiments[1].train()
        mixed = replace(experiments[1], initial_D=experiments[0].initial_D).train()
    assert float((alone - mixed).norm()) > 1e-2 * float(alone.norm())


def test_how_many_runs_are_trained_at_once() -> None:
    plain = {"privacy": PLAIN, "aggregator": MEAN}
    central = assemble(small(**CASES["plain, central"]))
    assert side_by_side.runs_at_once(central) == 16
    many = assemble(small(cohort={"kind": "all"}, **plain))
    assert side_by_side.runs_at_once(many) == 3
    opacus = assemble(small(training={**SMALL["training"], "engine": "opacus"}, **plain))
    assert side_by_side.runs_at_once(opacus) == 1
    # A budget that holds one client at a time has no room for another run's.
    narrow_budget = assemble(small(training={**SMALL["training"], "memory_budget": 1, "batch_size": 2000}, **plain))
    assert side_by_side.runs_at_once(narrow_budget) == 1
