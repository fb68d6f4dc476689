"""One federated round as a function: (state, cohort) -> (state, what happened)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from privfl.aggregators import Aggregate, Aggregator, ClientUpdate, RoundContext
from privfl.errors import ModelError, PrivacyError
from privfl.privacy.events import LocalTraining
from privfl.privacy.plan import ExamplePlan, Plan
from privfl.servers import ServerOptimizer, State
from privfl.training import LocalResult, LocalTask, Trainer


@dataclass(frozen=True)
class ServerState:
    """What goes from round to round: the number of the next round, the global model, the server optimiser's state."""

    round: int
    global_D: Tensor
    optimizer: State


@dataclass(frozen=True)
class Outcome:
    """What happened in a round.

    Args:
        state: the state that the next round begins with.
        results: what each client's training gave; empty where the round was skipped.
        aggregate: None where the round was skipped.
        skipped: why nobody trained, where nobody did.
        train_seconds: training of the whole cohort.
    """

    state: ServerState
    results: Sequence[LocalResult]
    aggregate: Aggregate | None
    skipped: str | None
    train_seconds: float

    @property
    def events(self) -> dict[int, LocalTraining]:
        """What each client spent, by client, for the ledger."""
        return {result.client: result.event for result in self.results if result.event is not None}


def skip_reason(cohort: Sequence[int], aggregator: Aggregator) -> str | None:
    """Why a cohort cannot train; None where it can. Known before the round, so that nothing is spent in vain."""
    if len(cohort) < max(1, aggregator.minimum_clients):
        least = max(1, aggregator.minimum_clients)
        return f"a cohort of {len(cohort)}, where {aggregator.kind} needs at least {least}"
    return None


def run_round(
    state: ServerState,
    tasks: Sequence[LocalTask],
    plan: Plan,
    trainer: Trainer,
    aggregator: Aggregator,
    server: ServerOptimizer,
    context: RoundContext,
    largest_client: int,
) -> Outcome:
    """Local training, aggregation and the server's step.

    Clients are weighted by their public size (McMahan 2017: by their number of examples), as a share of the largest
    client's: a weight in (0, 1], which is what a secure sum can bound.

    Args:
        state: what the last round left.
        tasks: one for each client of the cohort.
        plan: what was promised; each client's executed event must be the planned one.
        trainer: trains the cohort.
        aggregator: brings the updates together.
        server: moves the global model.
        context: what both ends of the aggregation know.
        largest_client: the size of the largest client of all.

    Raises:
        PrivacyError: a client did something else than was planned.
    """
    skipped = skip_reason([task.client for task in tasks], aggregator)
    if skipped is not None:
        return Outcome(ServerState(state.round + 1, state.global_D, state.optimizer), (), None, skipped, 0.0)
    started = time.perf_counter()
    results = trainer.train(state.global_D, tasks)
    train_seconds = time.perf_counter() - started
    _require_finite(results)
    _require_planned(plan, tasks, results)
    updates = [
        ClientUpdate(task.client, result.delta_D, task.size / largest_client)
        for task, result in zip(tasks, results, strict=True)
    ]
    aggregate = aggregator.aggregate(updates, context)
    global_D, optimizer = server.step(state.global_D, aggregate.mean_D, state.optimizer)
    return Outcome(ServerState(state.round + 1, global_D, optimizer), results, aggregate, None, train_seconds)


def _require_finite(results: Sequence[LocalResult]) -> None:
    for result in results:
        if not (math.isfinite(result.loss) and bool(torch.isfinite(result.delta_D).all())):
            raise ModelError(f"client {result.client}: its loss or update is not finite, training diverged; lower training.lr")


def _require_planned(plan: Plan, tasks: Sequence[LocalTask], results: Sequence[LocalResult]) -> None:
    if not isinstance(plan, ExamplePlan):
        return
    for task, result in zip(tasks, results, strict=True):
        planned = plan.local_training(task.size)
        if result.event != planned:
            raise PrivacyError(f"client {task.client} did {result.event}, but {planned} was planned; nothing was sent")
