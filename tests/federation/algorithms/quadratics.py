"""Federated quadratic problems in float64: full gradients, rounds of the real loop, and answers known in closed form.

Client k minimises h_k/2 (w − w*_k)² with K_k steps of rate η. Two clients and one parameter have the fixed points of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.federation.aggregators import RoundContext
from privfl.federation.aggregators.mean import Mean
from privfl.federation.algorithms import Algorithm, Terms
from privfl.federation.behaviours.honest import Honest
from privfl.federation.outcome import CohortTasks
from privfl.federation.payload import PayloadLayout
from privfl.federation.rounds import Round
from privfl.federation.server_state import ServerState, state_of_client, told_of
from privfl.federation.servers.fedavg import FedAvg
from privfl.learning.training import LocalResult, LocalTask, Trainer
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.vectors import Layout


@dataclass(frozen=True)
class Problem:
    """Curvatures and optima, shape (N, D), the local steps of each client, and the learning rate."""

    h_ND: Tensor
    best_ND: Tensor
    steps: tuple[int, ...]
    lr: float = 0.1

    def loss(self, w_D: Tensor, task: LocalTask) -> float:
        """The loss of a client."""
        return float((self.h_ND[task.client] / 2 * (w_D - self.best_ND[task.client]).square()).sum())


def two(steps: tuple[int, ...]) -> Problem:
    """Two clients, one parameter; the minimum of the mean loss is at 0.9/1.1."""
    h_ND, best_ND = (torch.tensor(rows, dtype=torch.float64) for rows in ([[1.0], [0.1]], [[1.0], [-1.0]]))
    return Problem(h_ND, best_ND, steps)


class Exact(Trainer):
    """Trains on full gradients; the terms of the work are those of the engines."""

    def __init__(self, problem: Problem) -> None:
        longest = max(problem.steps)
        super().__init__(nn.Identity(), TrainingConfig(local_steps=longest, batch_size=1, lr=problem.lr), NoPlan())
        self.problem = problem

    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        return [self._one(global_D, task) for task in tasks]

    def _one(self, global_D: Tensor, task: LocalTask) -> LocalResult:
        problem, work = self.problem, task.work
        start_D = global_D if work.start_D is None else work.start_D
        centre_D = global_D if work.centre_D is None else work.centre_D
        w_D, steps = start_D.clone(), self.plain_steps(task)
        moves_D = torch.ones_like(w_D) if work.mask_D is None else work.mask_D.to(w_D)
        for _ in range(steps):
            gradient_D = problem.h_ND[task.client] * (w_D - problem.best_ND[task.client])
            drift_D = 0.0 if work.drift_D is None else work.drift_D
            w_D -= moves_D * work.rate * problem.lr * (gradient_D + drift_D + work.mu * (w_D - centre_D))
        weight = self.optimizer.gradient_weight(self.config, [problem.lr] * steps, work.mu)
        return LocalResult(task.client, w_D - start_D, 0.0, 0.0, None, 0, steps, weight, w_D if work.whole else None)

    def plain_steps(self, task: LocalTask) -> int:
        given = task.work.batches is not None or task.work.steps is not None
        return super().plain_steps(task) if given else self.problem.steps[task.client]


def begin(problem: Problem, algorithm: Algorithm) -> ServerState:
    zero_D = torch.zeros(problem.h_ND.shape[1], dtype=torch.float64)
    return ServerState(0, zero_D, {}, {}, algorithm.init(zero_D))


def step(problem: Problem, algorithm: Algorithm, state: ServerState, cohort: Sequence[int]) -> ServerState:
    """A round of the real loop, without a promise; all clients weigh the same, and the server's rate is 1."""
    layout = Layout(("w",), ((len(state.global_D),),))
    payload = PayloadLayout(algorithm.parts(layout), layout)

    def task(client: int) -> LocalTask:
        work = algorithm.work(told_of(algorithm, state), state_of_client(algorithm, state, client).kept)
        return LocalTask(client, 1, InputStore(torch.zeros(1, 1)), torch.zeros(1), torch.arange(1), Seed(client), work)

    population = len(problem.steps)
    one = Round(
        plan=NoPlan(),
        trainer=Exact(problem),
        algorithm=algorithm,
        payload=payload,
        terms=Terms(problem.lr, max(problem.steps), layout),
        behaviour=Honest(kind="honest"),
        misbehaving=frozenset(),
        aggregator=Mean(kind="mean"),
        server=FedAvg(kind="fedavg"),
        largest_client=1,
        population=population,
        stream=Seed(0),
        noise_domain="quadratics",
        personal=Exact(problem) if algorithm.personal else None,
        start_loss=problem.loss if algorithm.needs_loss else None,
    )
    context = RoundContext(state.round, state.global_D, payload.joined, population, bytes(32), "tests")
    return one.run(state, CohortTasks(tuple(cohort), task, torch.zeros(1, 1)), context).state


def limit(problem: Problem, algorithm: Algorithm, rounds: int = 400) -> float:
    """The first parameter after so many rounds with everybody."""
    state = begin(problem, algorithm)
    for _ in range(rounds):
        state = step(problem, algorithm, state, range(len(problem.steps)))
    return float(state.global_D[0])
