"""Where each algorithm ends on a problem with a known answer; derived by hand from its update rule, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quadratics import Problem, begin, limit, step, two
from torch import Tensor

from privfl.federation.algorithms import Algorithm
from privfl.shelves import SHELVES

H, BEST = (1.0, 0.1), (1.0, -1.0)
MINIMUM = 0.9 / 1.1
STEPS = [(10, 10), (2, 20)]


def made(kind: str, **settings: Any) -> Algorithm:
    algorithm: Algorithm = SHELVES["algorithm"].find(kind).model_validate({"kind": kind, **settings})
    return algorithm


def balance(weights: tuple[float, float]) -> float:
    """The point at which the weighted pulls to both optima cancel."""
    return (weights[0] * BEST[0] + weights[1] * BEST[1]) / sum(weights)


def moved(h: float, steps: int) -> float:
    """The share of the way to its optimum that a client goes."""
    return 1 - (1 - 0.1 * h) ** steps


@pytest.mark.parametrize("steps", STEPS)
def test_fedavg_ends_nearer_to_those_who_go_farther(steps: tuple[int, int]) -> None:
    expected = balance((moved(H[0], steps[0]), moved(H[1], steps[1])))
    assert limit(two(steps), made("fedavg")) == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx({(10, 10): 0.743974, (2, 20): 0.021250}[steps], abs=1e-6)


@pytest.mark.parametrize("steps", STEPS)
def test_fedprox_is_pulled_back(steps: tuple[int, int]) -> None:
    first, second = (moved(h + 1, count) * h / (h + 1) for h, count in zip(H, steps, strict=True))
    assert limit(two(steps), made("fedprox", mu=1.0)) == pytest.approx(balance((first, second)), abs=1e-9)
    assert balance((first, second)) == pytest.approx({(10, 10): 0.754116, (2, 20): 0.373679}[steps], abs=1e-6)


@pytest.mark.parametrize("steps", STEPS)
def test_scaffold_ends_at_the_minimum(steps: tuple[int, int]) -> None:
    assert limit(two(steps), made("scaffold")) == pytest.approx(MINIMUM, abs=1e-9)


@pytest.mark.parametrize("steps", STEPS)
def test_feddyn_ends_at_the_minimum(steps: tuple[int, int]) -> None:
    assert limit(two(steps), made("feddyn", alpha=0.2), 600) == pytest.approx(MINIMUM, abs=1e-9)


@pytest.mark.parametrize("steps", STEPS)
def test_fednova_takes_the_number_of_steps_out_and_leaves_the_drift(steps: tuple[int, int]) -> None:
    first, second = (moved(h, count) / count for h, count in zip(H, steps, strict=True))
    assert limit(two(steps), made("fednova")) == pytest.approx(balance((first, second)), abs=1e-9)
    assert balance((first, second)) == pytest.approx({(10, 10): 0.743974, (2, 20): 0.825087}[steps], abs=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.5, 9.0])
def test_a_personal_model_of_ditto_ends_between_its_own_optimum_and_the_global_model(strength: float) -> None:
    """The fixed point of v − η (h (v − w*) + λ (v − x)); λ = 0 is local training alone."""
    problem, algorithm = two((10, 10)), made("ditto", strength=strength)
    state = begin(problem, algorithm)
    for _ in range(400):
        state = step(problem, algorithm, state, range(2))
    x = float(state.global_D[0])
    assert x == pytest.approx(limit(problem, made("fedavg")), abs=1e-9)
    for client in range(2):
        personal_D = state.clients[client].personal["model"]
        expected = (H[client] * BEST[client] + strength * x) / (H[client] + strength)
        assert float(personal_D[0]) == pytest.approx(expected, abs=1e-9)


def test_feddyn_is_algorithm_1_of_the_authors_under_sampling() -> None:
    """Acar et al. 2021, algorithm 1: clients' gradients are kept, h falls by α of the moves, the model is the mean less h/α."""
    draw = torch.Generator().manual_seed(4)
    problem = Problem(torch.rand(5, 3, generator=draw).double(), torch.randn(5, 3, generator=draw).double(), (4, 3, 2, 5, 6))
    cohorts = [torch.randperm(5, generator=draw)[:2].sort().values.tolist() for _ in range(40)]
    alpha, state, algorithm = 0.3, begin(problem, made("feddyn", alpha=0.3)), made("feddyn", alpha=0.3)
    x_D, h_D, gradient_ND = torch.zeros(3).double(), torch.zeros(3).double(), torch.zeros(5, 3).double()
    for cohort in cohorts:
        state = step(problem, algorithm, state, cohort)
        ends = []
        for k in cohort:
            y_D = x_D.clone()
            for _ in range(problem.steps[k]):
                own_D = problem.h_ND[k] * (y_D - problem.best_ND[k])
                y_D -= problem.lr * (own_D - gradient_ND[k] + alpha * (y_D - x_D))
            gradient_ND[k] -= alpha * (y_D - x_D)
            ends.append(y_D)
        h_D = h_D - alpha * sum((y_D - x_D for y_D in ends), torch.zeros(3).double()) / 5
        x_D = sum(ends, torch.zeros(3).double()) / len(cohort) - h_D / alpha
    assert float((state.global_D - x_D).abs().max()) < 1e-10


def scaffold_as_published(problem: Problem, cohorts: list[list[int]]) -> Tensor:
    """Algorithm 1 of Karimireddy et al. 2020 line by line, option II, global rate 1."""
    clients, size = problem.h_ND.shape
    x_D, c_D = torch.zeros(size).double(), torch.zeros(size).double()
    c_ND = torch.zeros(clients, size).double()
    for cohort in cohorts:
        moves, changes = [], []
        for k in cohort:
            y_D, count = x_D.clone(), problem.steps[k]
            for _ in range(count):
                y_D -= problem.lr * (problem.h_ND[k] * (y_D - problem.best_ND[k]) - c_ND[k] + c_D)
            after_D = c_ND[k] - c_D + (x_D - y_D) / (count * problem.lr)
            moves.append(y_D - x_D)
            changes.append(after_D - c_ND[k])
            c_ND[k] = after_D
        x_D = x_D + sum(moves, torch.zeros(size).double()) / len(cohort)
        c_D = c_D + sum(changes, torch.zeros(size).double()) / clients
    return x_D


def test_scaffold_is_algorithm_1_under_sampling_and_unequal_steps() -> None:
    draw = torch.Generator().manual_seed(3)
    problem = Problem(
        torch.rand(6, 4, generator=draw).double(), torch.randn(6, 4, generator=draw).double(), (1, 2, 3, 5, 8, 13)
    )
    cohorts = [torch.randperm(6, generator=draw)[:3].sort().values.tolist() for _ in range(60)]
    state, algorithm = begin(problem, made("scaffold")), made("scaffold")
    for cohort in cohorts:
        state = step(problem, algorithm, state, cohort)
    expected_D = scaffold_as_published(problem, cohorts)
    assert float((state.global_D - expected_D).abs().max()) < 1e-12
    # The server's control variate is the mean of the clients'.
    mean_D = torch.stack([one.kept["control"] for one in state.clients.values()]).sum(0) / 6
    assert float((state.algorithm["control"] - mean_D).abs().max()) < 1e-12


@pytest.mark.parametrize("steps", STEPS)
def test_centred_clipping_with_a_large_norm_is_fedavg_and_else_is_moved_by_tau_at_most(steps: tuple[int, int]) -> None:
    assert limit(two(steps), made("centred_clipping", tau=1e6)) == pytest.approx(limit(two(steps), made("fedavg")), abs=1e-9)
    problem, algorithm = two(steps), made("centred_clipping", tau=0.01)
    state = begin(problem, algorithm)
    before, last = float(state.global_D[0]), 0.0
    for _ in range(50):
        state = step(problem, algorithm, state, range(2))
        moved_by = float(state.global_D[0]) - before
        # Each of two clients moves the step by half of τ at most, away from the step before.
        assert abs(moved_by - last) <= 0.01 + 1e-12
        before, last = float(state.global_D[0]), moved_by
