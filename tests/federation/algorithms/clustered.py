"""Rounds of clustered algorithms on quadratics in float64, with any aggregator: answers are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from quadratics import Exact, Problem
from torch import Tensor

from privfl.data.input_store import InputStore
from privfl.federation.aggregators import Aggregator, RoundContext
from privfl.federation.algorithms import Terms
from privfl.federation.behaviours.honest import Honest
from privfl.federation.clusters import Clustered
from privfl.federation.outcome import CohortTasks, Outcome
from privfl.federation.payload import PayloadLayout
from privfl.federation.rounds import Round
from privfl.federation.server_state import ServerState, state_of_client, told_of
from privfl.federation.servers.fedavg import FedAvg
from privfl.federation.slots import Slots
from privfl.learning.training import LocalTask
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.shelves import SHELVES
from privfl.vectors import Layout


def made(kind: str, **settings: object) -> Clustered:
    algorithm: Clustered = SHELVES["algorithm"].find(kind).model_validate({"kind": kind, **settings})
    return algorithm


def opposite(clients: int, dimension: int = 3) -> tuple[Problem, list[int]]:
    """Clients that alternate between linear regressions with the weights w and -w, and their groups.

    Local training ends at a client's own optimum, up to 2^-40.
    """
    w_D = torch.linspace(1.0, 2.0, dimension, dtype=torch.float64)
    groups = [client % 2 for client in range(clients)]
    best_ND = torch.stack([-w_D if group else w_D for group in groups])
    return Problem(torch.ones_like(best_ND), best_ND, (40,) * clients, lr=0.5), groups


def begin(problem: Problem, algorithm: Clustered) -> ServerState:
    """Models at zero, or at small random places if they are to begin apart."""
    dimension = problem.h_ND.shape[1]
    models = torch.zeros(algorithm.models * dimension, dtype=torch.float64)
    if algorithm.starts_apart:
        models = torch.randn(len(models), dtype=torch.float64, generator=Seed(1).torch()) / 10
    return ServerState(0, models, {}, {}, algorithm.init(models))


def step(
    problem: Problem, algorithm: Clustered, aggregator: Aggregator, state: ServerState, cohort: Sequence[int] | None = None
) -> Outcome:
    """A round of the real loop, without a promise; the server's view is kept."""
    dimension, population = problem.h_ND.shape[1], len(problem.steps)
    layout = Layout(("w",), ((dimension,),))
    payload = PayloadLayout(algorithm.parts(layout), algorithm.viewed(layout))

    def task(client: int) -> LocalTask:
        work = algorithm.work(told_of(algorithm, state), state_of_client(algorithm, state, client).kept)
        return LocalTask(client, 1, InputStore(torch.zeros(1, 1)), torch.zeros(1), torch.arange(1), Seed(client), work)

    def losses(models_MD: Tensor, tasks: Sequence[LocalTask]) -> Tensor:
        best_KD = problem.best_ND[[one.client for one in tasks]]
        return (best_KD[:, None] - models_MD).square().sum(2) / 2

    plan = NoPlan()
    one = Round(
        plan=plan,
        trainer=Exact(problem),
        algorithm=algorithm,
        payload=payload,
        terms=Terms(problem.lr, max(problem.steps), layout),
        behaviour=Honest(kind="honest"),
        misbehaving=frozenset(),
        aggregator=aggregator,
        server=FedAvg(kind="fedavg"),
        largest_client=1,
        population=population,
        stream=Seed(0),
        noise_domain="clusters",
        slots=Slots(algorithm, plan, aggregator, layout, losses) if algorithm.models > 1 else None,
    )
    # Secure aggregation takes models of float32, and its mean is one.
    global_D = state.global_D.float() if aggregator.hides_updates else state.global_D
    context = RoundContext(state.round, global_D, payload.joined, population, bytes(32), "tests")
    clients = tuple(range(population)) if cohort is None else tuple(cohort)
    return one.run(state, CohortTasks(clients, task, torch.zeros(1, 1)), context)


def after(
    problem: Problem, algorithm: Clustered, aggregator: Aggregator, rounds: int, state: ServerState | None = None
) -> Outcome:
    """The outcome of the last of that many rounds with everybody."""
    state = begin(problem, algorithm) if state is None else state
    for _ in range(rounds):
        outcome = step(problem, algorithm, aggregator, state)
        state = outcome.state
    return replace(outcome, state=state)
