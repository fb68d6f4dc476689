"""The weighted mean in the clear: the server sees every update. It is the baseline for secure aggregation."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from privfl.errors import ProtocolError
from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, Cost, RoundContext
from privfl.federation.aggregators._cohort import in_order
from privfl.federation.aggregators._fixed_point import FixedPoint64
from privfl.processes import ALONE, Processes

_AT_ONCE = 2**15
"""The number of coordinates that a CPU adds up together, so that intermediate results stay in its caches."""


class Mean(Aggregator):
    """The weighted mean Σ weight · update / Σ weight (McMahan 2017, algorithm 1), added up in 64-bit fixed point.

    The server sees ``updates_KD`` and ``weights_K``, rows by ascending client. Each client sends one float32 per coordinate,
    or its compressed update, and one for its weight.

    Guarantees: no privacy, since the server sees each client's update. The result does not depend on the order of arrival or on
    the number of processes, not even in a single bit.

    Edges: a single client gets its own update back. An empty cohort, an update that is not finite and weights that add up to
    zero are refused.
    """

    hides_updates = False
    linear = True

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """See :meth:`privfl.federation.aggregators.Aggregator.aggregate`."""
        return self._aggregated(in_order(updates, context, self.minimum_clients), context, ALONE)

    def collect(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate | None:
        """The mean over processes: each adds up its own clients. Updates travel only if the server's view is kept."""
        found = self._aggregated(in_order(updates, context, 0), context, context.processes)
        return found if context.processes.first else None

    def _aggregated(self, cohort: Sequence[ClientUpdate], context: RoundContext, processes: Processes) -> Aggregate:
        begun = time.perf_counter()
        weights = dict(sorted(pair for some in processes.all_gather(_weights(cohort)) for pair in some))
        weight_sum = sum(weights.values())
        if weight_sum <= 0:
            raise ProtocolError(f"the weights add up to {weight_sum}; at least one client must have a positive weight")
        sum_D = _sum(cohort, context, processes, len(weights))
        return Aggregate(
            mean_D=(sum_D / weight_sum).to(context.global_D.dtype),
            sum_D=sum_D,
            weight_sum=weight_sum,
            survivors=tuple(weights),
            cost=Cost(
                bytes_up=context.plain_bytes * len(weights),
                bytes_down=0,
                client_seconds=0.0,
                server_seconds=time.perf_counter() - begun,
            ),
            clipped=0,
            seen=_seen(cohort, weights, processes) if context.observed else {},
        )


def _weights(cohort: Sequence[ClientUpdate]) -> list[tuple[int, float]]:
    return [(update.client, update.weight) for update in cohort]


def _sum(cohort: Sequence[ClientUpdate], context: RoundContext, processes: Processes, clients: int) -> Tensor:
    """Σ weight · update over all clients of all processes, in float64."""
    code = FixedPoint64.fit(processes.all_reduce_max(_largest(cohort)), clients)
    words_D = torch.zeros(context.layout.size, dtype=torch.int64, device=context.global_D.device)
    at_once = _AT_ONCE if words_D.device.type == "cpu" else len(words_D)
    for first in range(0, len(words_D), at_once):
        here = slice(first, first + at_once)
        for update in cohort:
            words_D[here] += code.words(update.delta_D[here].detach(), update.weight).to(words_D.device)
    return code.values(processes.all_reduce_sum(words_D))


def _largest(cohort: Sequence[ClientUpdate]) -> float:
    """The largest ‖weight · delta‖∞ of the cohort. It is ten times as fast as PyTorch's norm and waits for a GPU only once."""
    if not cohort:
        return 0.0
    ends_K2 = torch.stack([torch.stack(torch.aminmax(one.delta_D.detach())) for one in cohort])
    largest: float = max(size * one.weight for size, one in zip(ends_K2.abs().amax(1).tolist(), cohort, strict=True))
    return largest


def _seen(cohort: Sequence[ClientUpdate], weights: dict[int, float], processes: Processes) -> dict[str, Tensor]:
    rows = {
        client: torch.from_numpy(row_D)
        for some in processes.gather([(update.client, update.delta_D.detach().cpu().numpy()) for update in cohort])
        for client, row_D in some
    }
    if not processes.first:
        return {}
    return {
        "updates_KD": torch.stack([rows[client] for client in weights]),
        "weights_K": torch.tensor(list(weights.values()), dtype=torch.float32),
    }
