"""Slots of a round with several global models: where each client starts, which slot it fills, and who is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, Cost, RoundContext
from privfl.federation.algorithms import State
from privfl.federation.clusters import Arrivals, Clustered, opened
from privfl.federation.payload import UPDATE, PayloadLayout
from privfl.learning.training import LocalResult, LocalTask
from privfl.privacy.plans import Plan
from privfl.vectors import Layout

Losses = Callable[[Tensor, Sequence[LocalTask]], Tensor]
"""The mean training loss of each task under each model: (M, D) and K tasks -> (K, M)."""

FREE = Cost(0, 0, 0.0, 0.0)


@dataclass(frozen=True)
class Slots:
    """The part of a round that a single global model does without.

    Args:
        algorithm: chooses starts and slots.
        plan, aggregator: decide whether clients are counted before they send anything.
        layout: the layout of one model.
        losses: computes training losses; None if nobody chooses by them.
    """

    algorithm: Clustered
    plan: Plan
    aggregator: Aggregator
    layout: Layout
    losses: Losses | None

    @property
    def summed(self) -> PayloadLayout:
        """The layout of the sum."""
        parts = self.algorithm.summed(self.layout)
        return PayloadLayout(parts, parts[UPDATE])

    def models(self, global_D: Tensor) -> Tensor:
        """The global models, shape (M, D), as a view."""
        return global_D.view(self.algorithm.models, -1)

    def begin(
        self, global_D: Tensor, told: State, kept: Mapping[int, State], tasks: Sequence[LocalTask], context: RoundContext
    ) -> tuple[list[LocalTask], Arrivals | None, Cost]:
        """The tasks with the models that they start from, and the slots if clients choose before they train.

        Args:
            global_D: the global models, one after another.
            told: the algorithm's state that clients receive.
            kept: the clients' own states.
            tasks: the cohort's tasks.
            context: the round.
        """
        models_MD = self.models(global_D)
        if not self.algorithm.by_loss:
            starts = [self.algorithm.start(told, models_MD, task.client, kept[task.client]) for task in tasks]
            return _started(tasks, starts), None, FREE
        assert self.losses is not None
        rows = self.losses(models_MD, tasks).argsort(dim=1, stable=True).tolist()
        ranks = {task.client: row for task, row in zip(tasks, rows, strict=True)}
        arrivals, cost = self._chosen(ranks, context, moves=True)
        places = [first if (first := arrivals.chosen[client]) is not None else rank[0] for client, rank in ranks.items()]
        return _started(tasks, [models_MD[place] for place in places]), arrivals, cost

    def chosen(
        self, told: State, kept: Mapping[int, State], results: Sequence[LocalResult], context: RoundContext
    ) -> tuple[Arrivals | None, Cost]:
        """The slots of clients that choose after they have trained; None if the server sorts them."""
        if self.algorithm.sorted_by_server:
            return None, FREE
        ranks = {one.client: self.algorithm.rank(told, kept[one.client], one.delta_D) for one in results}
        return self._chosen(ranks, context, moves=self.algorithm.moves(told))

    def continued(self, server: State, global_D: Tensor, optimizer: State) -> tuple[Tensor, State]:
        """Models and optimizer's state from which this round's step begins: those of a cluster's origin if it was split off.

        Args:
            server: the algorithm's state after the round.
            global_D: the models before the step.
            optimizer: the server optimizer's state before the step.
        """
        origins = self.algorithm.origins(server)
        if origins is None:
            return global_D, optimizer

        def of_origins(vector_D: Tensor) -> Tensor:
            return self.models(vector_D)[origins].flatten() if vector_D.shape == global_D.shape else vector_D

        return of_origins(global_D), {name: of_origins(value) for name, value in optimizer.items()}

    def _chosen(self, ranks: Mapping[int, Sequence[int]], context: RoundContext, *, moves: bool) -> tuple[Arrivals, Cost]:
        """Count the clients' first choices if a slot could have too few members, and give each the best that is open."""
        least = self.algorithm.members_needed(self.plan, self.aggregator, len(ranks))
        if least <= 1:
            return Arrivals(None, (), {client: rank[0] if rank else None for client, rank in ranks.items()}), FREE
        wanted, cost = self._counted(ranks, context)
        # Without counts nobody knows which slot is safe.
        there = [] if wanted is None else opened(wanted, least, moves=moves)
        closed = tuple(slot for slot in range(self.algorithm.models) if slot not in there)
        chosen = {client: next((slot for slot in rank if slot in there), None) for client, rank in ranks.items()}
        return Arrivals(wanted, closed, chosen), cost

    def _counted(self, ranks: Mapping[int, Sequence[int]], context: RoundContext) -> tuple[tuple[int, ...] | None, Cost]:
        """How many clients would fill each slot, summed by the run's aggregator; None if too few clients survived."""
        models, like_D = self.algorithm.models, context.global_D
        votes = []
        for client, rank in ranks.items():
            vote_M = like_D.new_zeros(models)
            if rank:
                vote_M[rank[0]] = 1.0
            votes.append(ClientUpdate(client, vote_M, 1.0))
        of_counts = replace(
            context,
            layout=Layout(("wanted",), ((models,),)),
            run=f"{context.run} counts",
            simulation_key=hashlib.sha256(b"privfl counts" + context.simulation_key).digest(),
            transcript=None,
            observed=False,
        )
        found = self.aggregator.aggregate(votes, of_counts)
        if found.sum_D is None:
            return None, found.cost
        return tuple(round(count) for count in found.sum_D.tolist()), found.cost

    def sorted_by_server(
        self, server: State, updates: Sequence[ClientUpdate], context: RoundContext, count: float
    ) -> tuple[Aggregate, Arrivals, State]:
        """The sum over slots that the server fills by the updates that it received, and the algorithm's state with it.

        Args:
            server: the algorithm's state.
            updates: one vector of length D from each client.
            context: the round.
            count: the entry by which a client is counted.
        """
        chosen, after = self.algorithm.sort(server, {one.client: one.delta_D for one in updates})
        filled = [
            replace(one, delta_D=self.summed.join(self.algorithm.filled(one.delta_D, chosen[one.client], count)))
            for one in updates
        ]
        found = self.aggregator.aggregate(filled, replace(context, layout=self.summed.joined))
        ordered = sorted(updates, key=lambda one: one.client)
        seen = {
            "updates_KD": torch.stack([one.delta_D.detach().cpu() for one in ordered]),
            "weights_K": torch.tensor([one.weight for one in ordered], dtype=torch.float32),
        }
        # A client sends its update and its weight. The server fills the slots by itself.
        cost = replace(found.cost, bytes_up=4 * (self.layout.size + 1) * len(updates))
        return replace(found, cost=cost, seen=seen if context.observed else {}), Arrivals(None, (), chosen), after


def with_cost(aggregate: Aggregate, cost: Cost) -> Aggregate:
    """The aggregate with the cost of counting added to its own."""
    own = aggregate.cost
    return replace(
        aggregate,
        cost=Cost(
            own.bytes_up + cost.bytes_up,
            own.bytes_down + cost.bytes_down,
            own.client_seconds + cost.client_seconds,
            own.server_seconds + cost.server_seconds,
        ),
    )


def _started(tasks: Sequence[LocalTask], starts: Sequence[Tensor]) -> list[LocalTask]:
    return [replace(task, work=replace(task.work, start_D=start_D)) for task, start_D in zip(tasks, starts, strict=True)]
