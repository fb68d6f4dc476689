"""The weighted mean in the clear: the server sees every update. The baseline that secure aggregation is held against."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from privfl.aggregators import Aggregate, Aggregator, ClientUpdate, Cost, RoundContext
from privfl.aggregators._cohort import in_order
from privfl.errors import ProtocolError


class Mean(Aggregator):
    """Σ weight · update / Σ weight (McMahan 2017, algorithm 1), accumulated in float64 in the order of the clients' numbers.

    What the server saw: ``updates_KD`` and ``weights_K``, rows by ascending client. The bytes are those of a float32
    for every coordinate and one for the weight; clients have nothing to compute.

    Guarantees: none; the server sees each client's update. The result does not depend on the order of arrival.

    Edges: one client gets its own update back. An empty cohort, an update that is not finite and weights that add up
    to zero are refused.
    """

    hides_updates = False

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """See :meth:`privfl.aggregators.Aggregator.aggregate`."""
        begun = time.perf_counter()
        cohort = in_order(updates, context, self.minimum_clients)
        weights_K = torch.tensor([update.weight for update in cohort], dtype=torch.float64)
        weight_sum = float(weights_K.sum())
        if weight_sum <= 0:
            raise ProtocolError(f"the weights add up to {weight_sum}; at least one client must have a positive weight")
        sum_D = torch.zeros(context.layout.size, dtype=torch.float64, device=context.global_D.device)
        for update in cohort:
            sum_D.add_(update.delta_D.detach().to(sum_D.device), alpha=update.weight)
        mean_D = (sum_D / weight_sum).to(context.global_D.dtype)
        seconds = time.perf_counter() - begun
        return Aggregate(
            mean_D=mean_D,
            survivors=tuple(update.client for update in cohort),
            cost=Cost(
                bytes_up=4 * (context.layout.size + 1) * len(cohort), bytes_down=0, client_seconds=0.0, server_seconds=seconds
            ),
            clipped=0,
            seen={
                "updates_KD": torch.stack([update.delta_D.detach() for update in cohort]),
                "weights_K": weights_K.to(torch.float32),
            },
        )
