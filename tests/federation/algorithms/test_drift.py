"""MOON, q-FedAvg, and SCAFFOLD under noise: when they are FedAvg, where they end, and which plans refuse them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from quadratics import begin, limit, step, two
from small_runs import small
from torch import Tensor, nn

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, ModelError
from privfl.federation.algorithms import Algorithm
from privfl.federation.algorithms.fedavg import FedAvg
from privfl.federation.algorithms.qfedavg import QFedAvg
from privfl.federation.server_state import ServerState
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.training import Contrast
from privfl.learning.training._contrast import ContrastiveLoss
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.shelves import SHELVES
from privfl.vectors import Layout

PLAIN: dict[str, Any] = {"privacy": "none", "aggregator": "mean", "server": {"kind": "fedavg"}, "rounds": 3}
TRAINING = {"local_epochs": 1, "batch_size": 16, "lr": 0.5, "engine": "opacus"}
CLIENT = {"kind": "client_central", "noise_multiplier": 0.5, "delta": 1e-2, "max_update_norm": 0.5}
EXAMPLE = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}


class Uniform(FedAvg):
    weighted = False


def made(kind: str, **settings: Any) -> Algorithm:
    algorithm: Algorithm = SHELVES["algorithm"].find(kind).model_validate({"kind": kind, **settings})
    return algorithm


def moon(**changes: Any) -> ExperimentConfig:
    table = {**PLAIN, "model": {"kind": "mlp", "hidden": [16]}, "training": TRAINING, "algorithm": "moon"}
    return small(**{**table, **changes})


def trained(experiment: Experiment) -> ServerState:
    state = experiment.initial_state()
    with deterministic():
        while state.round < experiment.config.rounds:
            state = experiment.step(state).state
    return state


# --- MOON ----------------------------------------------------------------------------------------------------------------


def test_moon_without_its_term_is_fedavg_to_the_bit_and_with_it_is_not() -> None:
    plain, still, real = (
        trained(assemble(moon(algorithm=of))) for of in ("fedavg", {"kind": "moon", "mu": 0.0}, {"kind": "moon", "mu": 5.0})
    )
    assert torch.equal(plain.global_D, still.global_D)
    assert not torch.allclose(plain.global_D, real.global_D, atol=1e-4)


def test_in_a_first_round_the_term_is_constant_and_a_client_keeps_the_model_that_it_ended_with() -> None:
    experiments = [assemble(moon(algorithm=of, cohort={"kind": "all"})) for of in ("fedavg", {"kind": "moon", "mu": 5.0})]
    with deterministic():
        plain, found = (one.step(one.initial_state(), observed=True) for one in experiments)
    assert plain.aggregate is not None
    assert found.aggregate is not None
    updates_KD = found.aggregate.seen["updates_KD"]
    assert torch.allclose(updates_KD, plain.aggregate.seen["updates_KD"], atol=1e-5)
    for client, state in found.state.clients.items():
        assert torch.equal(state.kept["previous"], experiments[1].initial_D + updates_KD[client])


def test_the_contrastive_term_and_its_gradient_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    layout = Layout.of(model)
    own_D, near_D, far_D = (torch.randn(layout.size, dtype=torch.float64) for _ in range(3))
    x_B, y_B = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])

    def by_hand(vector_D: Tensor) -> Tensor:
        def features(of_D: Tensor) -> Tensor:
            parts = layout.unflatten(of_D)
            return (x_B @ parts["0.weight"].T + parts["0.bias"]).tanh()

        z, parts = features(vector_D), layout.unflatten(vector_D)
        near, far = (
            torch.exp((z * w).sum(1) / z.norm(dim=1) / w.norm(dim=1) / 0.3) for w in (features(near_D), features(far_D))
        )
        outputs = z @ parts["2.weight"].T + parts["2.bias"]
        return nn.functional.cross_entropy(outputs, y_B, reduction="none") - 2.0 * torch.log(near / (near + far))

    with torch.no_grad():
        for parameter, value in zip(model.parameters(), layout.unflatten(own_D).values(), strict=True):
            parameter.copy_(value)
    losses_B = ContrastiveLoss(model, CLASSIFICATION, Contrast(far_D, 2.0, 0.3), near_D)(model, x_B, y_B)
    leaf_D = own_D.clone().requires_grad_()
    expected_B = by_hand(leaf_D)
    assert torch.allclose(losses_B, expected_B, atol=1e-12)
    (expected_D,) = torch.autograd.grad(expected_B.sum(), leaf_D)
    found = torch.autograd.grad(losses_B.sum(), list(model.parameters()))
    assert torch.allclose(torch.cat([one.flatten() for one in found]), expected_D, atol=1e-9)
    assert model.training
    assert not model[2]._forward_pre_hooks


def test_the_contrastive_term_is_clipped_with_each_example_s_gradient() -> None:
    """A step of DP-SGD moves a client by at most η n C/B, however strong the term is, and its noise."""
    privacy = {**EXAMPLE, "noise_multiplier": 0.01}
    table = {"local_steps": 1, "batch_size": 16, "lr": 0.5, "engine": "auto"}
    experiment = assemble(moon(algorithm={"kind": "moon", "mu": 1e4}, privacy=privacy, training=table, cohort={"kind": "all"}))
    state = experiment.initial_state()
    far_D = torch.randn(experiment.layout.size, generator=torch.Generator().manual_seed(0))
    with deterministic():
        first = experiment.step(state).state
        clients = {client: replace(one, kept={"previous": far_D}) for client, one in first.clients.items()}
        outcome = experiment.step(replace(first, clients=clients), observed=True)
    assert outcome.aggregate is not None
    assert outcome.clipped_share is not None
    assert outcome.clipped_share > 0.9
    noise = 0.5 * 0.01 * experiment.layout.size**0.5 / 16
    for client, update_D in enumerate(outcome.aggregate.seen["updates_KD"]):
        members = len(experiment.data.members_of(client))
        size = min(16, int(experiment.data.sizes()[client]))
        assert float(update_D.norm()) <= 0.5 * members / size + 2 * noise * 16 / size
    assert experiment.engine.startswith("opacus")


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"training": {**TRAINING, "engine": "fused"}},
        ConfigError,
        r"training\.engine = 'fused': algorithm 'moon' needs the feat",
    ),
    ({"algorithm": {"kind": "moon", "mu": -1.0}}, ConfigError, r"algorithm\.mu = -1\.0"),
    ({"algorithm": {"kind": "moon", "temperature": 0.0}}, ConfigError, r"algorithm\.temperature = 0\.0"),
    ({"privacy": CLIENT, "cohort": {"kind": "fixed", "size": 5}}, ConfigError, r"'moon' keeps state at clients"),
    ({"model": "logistic"}, ModelError, r"algorithm 'moon' compares features, .*set model\.kind = 'mlp'"),
    ({"algorithm": "qfedavg", "privacy": EXAMPLE}, ConfigError, r"'qfedavg': uploads a function of the client's loss, .*'cli"),
    ({"algorithm": "qfedavg", "aggregator": "median"}, ConfigError, r"algorithm 'qfedavg' needs a weighted mean"),
    ({"algorithm": {"kind": "qfedavg", "q": -1.0}}, ConfigError, r"algorithm\.q = -1\.0"),
    ({"algorithm": {"kind": "scaffold", "warmup": -1}}, ConfigError, r"algorithm\.warmup = -1"),
    ({"algorithm": {"kind": "scaffold", "shrinkage": 1.5}}, ConfigError, r"algorithm\.shrinkage = 1\.5"),
]


@pytest.mark.parametrize(("changes", "error", "said"), REFUSED)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        assemble(moon(**changes))


# --- q-FedAvg ------------------------------------------------------------------------------------------------------------


def test_qfedavg_with_q_0_is_fedavg_with_equal_weights_to_the_bit() -> None:
    experiment = assemble(small(**PLAIN))
    plain, fair, unfair = (
        trained(replace(experiment, algorithm=of))
        for of in (Uniform(kind="own"), QFedAvg(kind="qfedavg", q=0.0), QFedAvg(kind="qfedavg", q=2.0))
    )
    assert torch.equal(plain.global_D, fair.global_D)
    assert not torch.allclose(plain.global_D, unfair.global_D, atol=1e-4)


def moved(h: float, steps: int) -> float:
    return 1 - (1 - 0.1 * h) ** steps


ROUNDS = 200
"""Rounds after which a change is far below the tolerance."""


def losses(x: float) -> tuple[float, float]:
    return (x - 1) ** 2 / 2, 0.1 * (x + 1) ** 2 / 2


@pytest.mark.parametrize(("steps", "q"), [((10, 10), 1.0), ((2, 20), 0.5), ((2, 20), 2.0)])
def test_qfedavg_ends_where_pulls_times_powers_of_losses_cancel(steps: tuple[int, int], q: float) -> None:
    def pull(x: float) -> float:
        pulls = (moved(1.0, steps[0]) * (1 - x), moved(0.1, steps[1]) * (-1 - x))
        return sum(float(loss**q) * one for loss, one in zip(losses(x), pulls, strict=True))

    low, high = -1.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if pull(middle) > 0 else (low, middle)
    found = limit(two(steps), made("qfedavg", q=q), ROUNDS)
    assert found == pytest.approx(low, abs=1e-9)
    # A larger q brings the losses together: without it the end is at 0.743974 or 0.021250.
    gaps = [abs(one - other) for one, other in (losses(found), losses({10: 0.743974, 2: 0.021250}[steps[0]]))]
    assert gaps[0] < gaps[1]
    # Losses are clipped far above those here: a larger bound leaves every step as it is.
    ends = [limit(two(steps), made("qfedavg", q=q, max_loss=bound), 5) for bound in (10.0, 1e3)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-12)


def test_one_clip_covers_both_terms_of_qfedavg_and_they_run_under_masks() -> None:
    privacy = {**CLIENT, "noise_multiplier": 1e-3, "max_update_norm": 0.05}
    experiment = assemble(small(**{**PLAIN, "algorithm": "qfedavg", "privacy": privacy, "cohort": {"kind": "all"}}))
    with deterministic():
        outcome = experiment.step(experiment.initial_state(), observed=True)
    assert outcome.aggregate is not None
    seen = outcome.aggregate.seen
    both_KD = torch.cat([seen["updates_KD"], seen["curvature:updates_KD"]], dim=1)
    assert float(both_KD.norm(dim=1).max()) <= 0.05 * (1 + 1e-5)
    assert float(seen["curvature:updates_KD"].min()) > 0
    hidden = assemble(small(**{**PLAIN, "algorithm": "qfedavg", "aggregator": "secure_sum", "rounds": 1}))
    assert bool(trained(hidden).global_D.isfinite().all())


# --- SCAFFOLD under noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"warmup": 3}, {"warmup": 10**6}, {"shrinkage": 0.0}], ids=str)
def test_scaffold_that_never_uses_its_control_variates_is_fedavg_to_the_bit(settings: dict[str, Any]) -> None:
    experiment = assemble(small(**PLAIN))
    plain, still = (trained(replace(experiment, algorithm=of)) for of in (Uniform(kind="own"), made("scaffold", **settings)))
    assert torch.equal(plain.global_D, still.global_D)
    # They are learned all the same.
    assert bool(still.algorithm["control"].any())


def test_after_its_warm_up_scaffold_ends_at_the_minimum() -> None:
    for steps in ((10, 10), (2, 20)):
        assert limit(two(steps), made("scaffold", warmup=7)) == pytest.approx(0.9 / 1.1, abs=1e-9)
    problem, plain, late = two((2, 20)), made("scaffold"), made("scaffold", warmup=2)
    first, held = (step(problem, one, begin(problem, one), (0, 1)) for one in (plain, late))
    # Control variates begin at zero: the first round is the same with and without warm-up, and the second is not.
    assert torch.equal(first.global_D, held.global_D)
    first, held = step(problem, plain, first, (0, 1)), step(problem, late, held, (0, 1))
    assert not torch.equal(first.global_D, held.global_D)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_a_control_variate_is_the_mean_gradient_whatever_the_correction_was(shrinkage: float) -> None:
    problem, algorithm = two((2, 20)), made("scaffold", shrinkage=shrinkage)
    state = begin(problem, algorithm)
    for _ in range(3):
        before, told = state, state.algorithm
        state = step(problem, algorithm, state, (0, 1))
        for client, steps in enumerate(problem.steps):
            c_k = before.clients[client].kept["control"] if before.clients else torch.zeros(1, dtype=torch.float64)
            w, gradients = before.global_D.clone(), []
            for _ in range(steps):
                gradients.append(problem.h_ND[client] * (w - problem.best_ND[client]))
                w -= 0.1 * (gradients[-1] + told["used"] * (told["control"] - c_k))
            mean = torch.stack(gradients).mean(0)
            assert torch.allclose(state.clients[client].kept["control"], mean, atol=1e-12)


def test_shrinkage_ends_between_fedavg_and_the_minimum() -> None:
    ends = [limit(two((2, 20)), made("scaffold", shrinkage=shrinkage)) for shrinkage in (0.0, 0.5, 1.0)]
    assert ends[0] == pytest.approx(0.021250, abs=1e-6)
    assert ends[0] < ends[1] < ends[2]


@pytest.mark.parametrize("privacy", [EXAMPLE, CLIENT], ids=lambda table: table["kind"])
def test_scaffold_with_a_warm_up_runs_under_a_promise_at_its_price(privacy: dict[str, Any]) -> None:
    table = {**PLAIN, "privacy": privacy, "aggregator": "secure_sum"}
    late, plain = (assemble(small(**table, algorithm=of)) for of in ({"kind": "scaffold", "warmup": 2}, "scaffold"))
    state = trained(late)
    assert float(state.algorithm["used"]) == 1.0
    assert bool(state.global_D.isfinite().all())
    assert late.ledger(3).epsilon() == plain.ledger(3).epsilon()
