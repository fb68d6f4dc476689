"""The base of robust rules: the server sees every update and combines them by something else than a weighted mean."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, Cost, RoundContext
from privfl.federation.aggregators._cohort import in_order

ByzantineShare = Annotated[float, Field(ge=0, lt=0.5)]
"""The share of a round's clients that may send anything: f = ⌊share · n⌋ of n clients."""


class RowRule(Aggregator):
    """A rule that combines K updates, which the server sees, into one vector that few clients cannot move far.

    The bytes are those of the mean. The record of the round has the
    rule's result times Σ weight in the place of a weighted sum.

    Guarantees: none for privacy, because the server sees each client's update. One client may move the result by as much as
    the others' updates allow, so a plan that prices a sum refuses these rules. They may follow plans whose updates are noised
    already.

    Edges: an update that is not finite ends the run. The result is the same to the bit for any order of arrival and any number
    of processes.
    """

    hides_updates = False
    linear = False

    @abstractmethod
    def combined(self, updates_KD: Tensor, weights_K: Tensor, context: RoundContext) -> Tensor:
        """The result for K ≥ 1 updates, a vector of length D.

        Args:
            updates_KD: the updates in float64, by ascending client.
            weights_K: their weights in float64.
            context: facts of the round.
        """

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """See :meth:`privfl.federation.aggregators.Aggregator.aggregate`."""
        cohort = in_order(updates, context, self.minimum_clients)
        begun = time.perf_counter()
        sent_KD = torch.stack([update.delta_D.detach() for update in cohort])
        weights_K = torch.tensor([update.weight for update in cohort], dtype=torch.float64, device=sent_KD.device)
        combined_D = self.combined(sent_KD.double(), weights_K, context)
        weight_sum = float(weights_K.sum())
        return Aggregate(
            mean_D=combined_D.to(context.global_D.dtype),
            sum_D=combined_D * weight_sum,
            weight_sum=weight_sum,
            survivors=tuple(update.client for update in cohort),
            cost=Cost(context.plain_bytes * len(cohort), 0, 0.0, time.perf_counter() - begun),
            clipped=0,
            seen={"updates_KD": sent_KD.cpu(), "weights_K": weights_K.float().cpu()} if context.observed else {},
        )


class RobustRule(RowRule):
    """A rule that needs nothing but the updates and their weights."""

    def combined(self, updates_KD: Tensor, weights_K: Tensor, context: RoundContext) -> Tensor:  # noqa: ARG002
        """See :class:`RowRule`."""
        return self.combine(updates_KD, weights_K)

    @abstractmethod
    def combine(self, updates_KD: Tensor, weights_K: Tensor) -> Tensor:
        """The result for K ≥ 1 updates, a vector of length D.

        Args:
            updates_KD: the updates in float64, by ascending client.
            weights_K: their weights in float64.
        """


def byzantine(share: float, clients: int, most: int) -> int:
    """f, the number of clients that may send anything.

    Args:
        share: their share of the round.
        clients: n, the number of updates.
        most: the most that the rule withstands among n.
    """
    # The share of a decimal number of clients is a little less than that number in floating point.
    return max(0, min(math.floor(share * clients + 1e-9), most))


def squared_distances(updates_KD: Tensor) -> Tensor:
    """The squared distance of each pair of updates, of shape (K, K).

    It is a sum over differences. The expansion ‖a‖² + ‖b‖² − 2⟨a, b⟩ would lose all digits of near updates of a large norm.
    """
    return torch.stack([(updates_KD - one_D).square().sum(1) for one_D in updates_KD])


def krum_scores(distances_KK: Tensor, faulty: int) -> Tensor:
    """The sum of each update's squared distances to its n − f − 2 nearest others, of shape (K,) (Blanchard 2017, section 4).

    Among fewer than f + 3 updates the nearest one counts.
    """
    clients = len(distances_KK)
    # The first of each sorted row is the update itself, at distance 0.
    nearest_KK = distances_KK.sort(1).values[:, 1 : 1 + max(1, clients - faulty - 2)]
    return nearest_KK.sum(1)


def repeated_krum(distances_KK: Tensor, faulty: int, count: int) -> list[int]:
    """The places of ``count`` updates that Krum picks one after another, each time from those that are left.

    Equal scores: the client of the lowest number is picked.
    """
    left = list(range(len(distances_KK)))
    picked = []
    for _ in range(count):
        scores_K = krum_scores(distances_KK[left][:, left], faulty)
        picked.append(left.pop(int(scores_K.argmin())))
    return picked
