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
from privfl.privacy.client_plans import ClientPlan, Contribution, PlanState, Total
from privfl.privacy.events import CohortSum, Event
from privfl.privacy.ledger import Account
from privfl.privacy.plan import ExamplePlan, Plan
from privfl.seeding import Seed
from privfl.servers import ServerOptimizer, State
from privfl.training import LocalResult, LocalTask, Trainer


@dataclass(frozen=True)
class ServerState:
    """What goes from round to round: the number of the next round, the global model, the states of the server optimiser
    and of the plan.
    """

    round: int
    global_D: Tensor
    optimizer: State
    plan: PlanState


@dataclass(frozen=True)
class Outcome:
    """What happened in a round.

    Args:
        state: the state that the next round begins with.
        results: what each client's training gave; empty where nobody trained.
        aggregate: None where nothing was aggregated.
        participants: who handed something in, ascending, stand-ins included.
        events: what was spent, for the ledger, by whose account it is.
        clipped_share: of the gradients, or of the updates, that were longer than the norm; None where nothing is clipped.
        zeroed: how many gradients or updates were not finite, and counted as zeros.
        skipped: why the model did not move: nobody trained, or too few survived the aggregation.
        train_seconds: training of the whole cohort.
    """

    state: ServerState
    results: Sequence[LocalResult]
    aggregate: Aggregate | None
    participants: Sequence[int]
    events: dict[Account, Event]
    clipped_share: float | None
    zeroed: int
    skipped: str | None
    train_seconds: float


def skip_reason(cohort: Sequence[int], aggregator: Aggregator, plan: Plan) -> str | None:
    """Why a cohort cannot train; None where it can. Known before the round, so that nothing is spent in vain.

    A cohort that is drawn in secret is never skipped, be it empty: that a round was skipped would tell who was not there.
    """
    if isinstance(plan, ClientPlan) and plan.trusts_server:
        return None
    least = max(1, aggregator.minimum_clients, plan.minimum_clients if isinstance(plan, ClientPlan) else 1)
    if len(cohort) < least:
        return f"a cohort of {len(cohort)}, where {aggregator.kind} needs at least {least}"
    return None


@dataclass(frozen=True)
class Round:
    """Who does what in a round.

    Args:
        plan: what was promised; each executed event must be the planned one.
        trainer: trains the cohort.
        aggregator: brings the updates together.
        server: moves the global model.
        largest_client: the size of the largest client of all.
        stream: the server's own randomness of this round.
    """

    plan: Plan
    trainer: Trainer
    aggregator: Aggregator
    server: ServerOptimizer
    largest_client: int
    stream: Seed

    def run(self, state: ServerState, tasks: Sequence[LocalTask], context: RoundContext) -> Outcome:
        """Local training, aggregation and the server's step.

        Args:
            state: what the last round left.
            tasks: one for each client of the cohort.
            context: what both ends of the aggregation know.

        Raises:
            ModelError: training diverged.
            PrivacyError: something else was done than was planned.
        """
        skipped = skip_reason([task.client for task in tasks], self.aggregator, self.plan)
        if skipped is not None:
            after = ServerState(state.round + 1, state.global_D, state.optimizer, state.plan)
            return Outcome(after, (), None, (), {}, None, 0, skipped, 0.0)
        if context.codec is not None and not self.aggregator.uses_codec:
            raise PrivacyError(
                f"aggregator {self.aggregator.kind!r} does not encode by the plan's codec, which adds the noise; "
                "nothing was sent: set privacy.kind = 'client_central' or 'client_local'"
            )
        started = time.perf_counter()
        results = self.trainer.train(state.global_D, tasks)
        seconds = time.perf_counter() - started
        if isinstance(self.plan, ClientPlan):
            return self._of_clients(self.plan, state, tasks, results, context, seconds)
        return self._of_examples(state, tasks, results, context, seconds)

    def _of_examples(
        self,
        state: ServerState,
        tasks: Sequence[LocalTask],
        results: Sequence[LocalResult],
        context: RoundContext,
        seconds: float,
    ) -> Outcome:
        """Clients are weighted by their public size (McMahan 2017: by their number of examples), as a share of the largest
        client's: a weight in (0, 1], which is what a secure sum can bound.
        """
        _require_finite(results)
        _require_planned(self.plan, tasks, results)
        updates = [
            ClientUpdate(task.client, result.delta_D, task.size / self.largest_client)
            for task, result in zip(tasks, results, strict=True)
        ]
        aggregate = self.aggregator.aggregate(updates, context)
        shares = [result.clipped_share for result in results]
        # Where too few survived, what the clients spent stays spent: it was drawn, and masked vectors of it were sent.
        return Outcome(
            self._stepped(state, aggregate.mean_D, state.plan),
            results,
            aggregate,
            [task.client for task in tasks],
            {result.client: result.event for result in results if result.event is not None},
            sum(shares) / len(shares) if isinstance(self.plan, ExamplePlan) else None,
            sum(result.zeroed for result in results),
            aggregate.failed,
            seconds,
        )

    def _of_clients(
        self,
        plan: ClientPlan,
        state: ServerState,
        tasks: Sequence[LocalTask],
        results: Sequence[LocalResult],
        context: RoundContext,
        seconds: float,
    ) -> Outcome:
        """Every client has the same weight: one by its size would move the sum by more than it is clipped to."""
        # Noise that a client adds itself covers what the encoding does to it afterwards; the server's must cover it too.
        covered = {"rounding": self.aggregator.rounding_norm(context)} if plan.trusts_server else {}
        handed_in = [
            plan.at_client(result.delta_D, context.layout, state.plan, task.seed, **covered)
            for task, result in zip(tasks, results, strict=True)
        ]
        updates = [ClientUpdate(task.client, one.delta_D, 1.0) for task, one in zip(tasks, handed_in, strict=True)]
        aggregate, participants = self._aggregated(updates, context)
        failed = aggregate.failed if aggregate is not None and not plan.trusts_server else None
        arrived = aggregate if aggregate is not None and aggregate.mean_D is not None else None
        # A sum that was lost counts as empty where the noise is the server's: that a round was skipped would tell who came.
        total_D, weight = arrived.sum() if arrived is not None else (torch.zeros_like(state.global_D), 0.0)
        sum_D = total_D.to(state.global_D.device, torch.float64)
        release = plan.at_server(Total(sum_D, weight), handed_in, state.plan, state.round, self.stream)
        return Outcome(
            self._stepped(state, None if failed else release.mean_D, state.plan if failed else release.state),
            results,
            aggregate,
            participants,
            _spent(plan, tasks, handed_in, release.event),
            1 - sum(one.within for one in handed_in) / len(handed_in) if handed_in else None,
            sum(not bool(torch.isfinite(result.delta_D).all()) for result in results),
            failed,
            seconds,
        )

    def _aggregated(self, updates: Sequence[ClientUpdate], context: RoundContext) -> tuple[Aggregate | None, list[int]]:
        """The aggregate of what came, and who handed something in.

        Where fewer came than the aggregator can hide, and the round must not be skipped, others stand in with zeros: the
        sum is the same. Where nobody came there is nothing to hide.
        """
        if not updates:
            return None, []
        came = {update.client for update in updates}
        others = (client for client in range(context.population) if client not in came)
        missing = max(0, self.aggregator.minimum_clients - len(updates))
        zero_D = torch.zeros_like(context.global_D)
        stand_ins = [ClientUpdate(client, zero_D, 1.0) for _, client in zip(range(missing), others, strict=False)]
        everybody = [*updates, *stand_ins]
        return self.aggregator.aggregate(everybody, context), sorted(update.client for update in everybody)

    def _stepped(self, state: ServerState, mean_D: Tensor | None, plan: PlanState) -> ServerState:
        """The state after the round; where there is no mean the model stays where it was."""
        if mean_D is None:
            return ServerState(state.round + 1, state.global_D, state.optimizer, plan)
        global_D, optimizer = self.server.step(state.global_D, mean_D, state.optimizer)
        return ServerState(state.round + 1, global_D, optimizer, plan)


def _spent(
    plan: ClientPlan, tasks: Sequence[LocalTask], handed_in: Sequence[Contribution], released: Event | None
) -> dict[Account, Event]:
    """What was spent, by whose account it is, having been planned.

    Raises:
        PrivacyError: it was not.
    """
    spent: dict[Account, Event] = {
        task.client: one.event for task, one in zip(tasks, handed_in, strict=True) if one.event is not None
    }
    if released is not None:
        spent["everybody"] = released
    planned = plan.planned()
    accounts: list[Account] = ["everybody"] if plan.trusts_server else [task.client for task in tasks]
    for account in accounts:
        done = spent.get(account)
        if isinstance(done, CohortSum):
            # The norm may adapt; the noise is relative to it.
            done = done.model_copy(update={"max_update_norm": plan.max_update_norm})
        if done != planned:
            raise PrivacyError(f"round of {account}: {done} was done, but {planned} was planned; nothing was sent")
    return spent


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
