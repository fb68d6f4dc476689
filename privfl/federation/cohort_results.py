"""The results of a round's local training, client by client, put together over the processes that trained them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from privfl.federation.aggregators import Aggregator, ClientUpdate, RoundContext
from privfl.federation.client_states import ClientState
from privfl.federation.clusters import Arrivals
from privfl.learning.training import LocalResult
from privfl.privacy.plans import Contribution
from privfl.vectors import are_finite

_NOTHING = torch.empty(0)


@dataclass
class CohortResults:
    """Results of training a cohort, one entry per client, without the updates themselves.

    Args:
        clients: the clients' numbers.
        handed_in: the contributions that the plan returned, without their vectors.
        losses, clipped_shares, zeroed: figures of each training.
        stand_ins: clients that contributed zeros without being trained.
        states: the state of each client if its update arrives; filled at the first process only.
        seconds: training time of the slowest process.
        processes: the number of processes that had clients to train.
        arrivals: who filled which slot; None if there is one global model.
        server: the algorithm's state after the server sorted the cohort; None if it did not.
    """

    clients: list[int] = field(default_factory=list)
    handed_in: list[Contribution] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    clipped_shares: list[float] = field(default_factory=list)
    zeroed: list[int] = field(default_factory=list)
    stand_ins: list[int] = field(default_factory=list)
    states: dict[int, ClientState] = field(default_factory=dict)
    seconds: float = 0.0
    processes: int = 0
    arrivals: Arrivals | None = None
    server: dict[str, torch.Tensor] | None = None

    def add(self, results: Sequence[LocalResult], handed_in: Sequence[Contribution]) -> None:
        """Add the results of more clients. If a client's whole update is not finite, it counts as one zeroed gradient."""
        self.clients.extend(result.client for result in results)
        self.handed_in.extend(replace(one, delta_D=_NOTHING) for one in handed_in)
        self.losses.extend(result.loss for result in results)
        self.clipped_shares.extend(result.clipped_share for result in results)
        finite = are_finite([result.delta_D for result in results])
        self.zeroed.extend(result.zeroed + (not whole) for result, whole in zip(results, finite, strict=True))

    @classmethod
    def of(cls, shares: Sequence[CohortResults]) -> CohortResults:
        """The results of all processes together, by ascending client."""
        where = sorted((client, share, place) for share, one in enumerate(shares) for place, client in enumerate(one.clients))
        return cls(
            clients=[client for client, _, _ in where],
            handed_in=[shares[share].handed_in[place] for _, share, place in where],
            losses=[shares[share].losses[place] for _, share, place in where],
            clipped_shares=[shares[share].clipped_shares[place] for _, share, place in where],
            zeroed=[shares[share].zeroed[place] for _, share, place in where],
            seconds=max(share.seconds for share in shares),
            processes=sum(bool(share.clients) for share in shares),
        )


def stand_ins(aggregator: Aggregator, came: Sequence[int], context: RoundContext) -> list[ClientUpdate]:
    """Zero updates of clients outside the cohort, if fewer clients came than the aggregator needs to hide each of them.

    Only a plan that trusts the server gets here with so few clients, since it must not skip the round. Zeros leave the sum as
    it is.
    """
    there = set(came)
    others = (client for client in range(context.population) if client not in there)
    missing = max(0, aggregator.minimum_clients - len(came))
    zero_D = context.global_D.new_zeros(context.layout.size)
    return [ClientUpdate(client, zero_D, 1.0) for _, client in zip(range(missing), others, strict=False)]
