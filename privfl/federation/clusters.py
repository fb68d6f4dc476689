"""Clustered federations: several global models, each trained by a part of the clients.

The global vector has the M models one after another, so that the server's optimizer, the state file and the views need not know
how many there are. A client trains from one of them. Its update goes into one of M *slots*, and the other slots hold zeros::

    client in cluster 2 of 3:   [ 0 … 0 | 0 … 0 | Δ_k | 0 0 s ]        s: a public number, by which members are counted

The sum of all clients' slots has each cluster's sum and count, and nothing else. The slots are filled

- by the client, which chooses its cluster itself. It works through a secure sum, which hides who is in which cluster.
- by the server, which sorts clients by the updates that it sees. Then a client sends Δ_k alone.

**Under secure aggregation a cluster of few members is not summed.** The sum of a slot that one client filled would be that
client's update. So clients are first asked, in a secure sum of its own, how many would fill each slot. Slots with fewer than
``least_members`` are closed in this round, and their clients go to their next choice or send zeros. The server learns these
counts, and the counts in the sum. A server that lies about the counts is not detected.

**Under a client-level plan** the whole vector, count included, is clipped to one norm and noised, so that slots and counts are
in the promise. Nobody is asked for counts then, because the answer would be a release without noise.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.federation.aggregators import Aggregator
from privfl.federation.algorithms import Algorithm, State, Terms, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.privacy.plans import Plan
from privfl.tables import contradiction
from privfl.vectors import Layout

COUNT = "count"
"""The payload's part that counts members, one entry a cluster."""

_COUNT_SHARE = 0.5
"""The size of the count's entry under a client-level plan as a share of the norm that it is clipped to with the update."""

_LEAST_COUNT = 0.25
"""A noised count is taken for at least this part of 1/M, so that noise is not divided by next to nothing."""

Clusters = Annotated[int, Field(ge=1, le=100)]


@dataclass(frozen=True)
class Arrivals:
    """How many clients wanted to fill each slot of a round, and what became of it.

    Args:
        wanted: the counts that clients were asked for beforehand; None: nobody was asked.
        closed: the slots that had too few members in this round.
        chosen: the slot that each client filled; None: it sent zeros.
    """

    wanted: tuple[int, ...] | None
    closed: tuple[int, ...]
    chosen: Mapping[int, int | None]


class Clustered(Algorithm, ABC):
    """Base class of algorithms with M = ``clusters`` global models. With one it is FedAvg.

    A cluster moves by the weighted mean of its members' updates, Σ_k∈j p_k Δ_k / Σ_k∈j p_k.

    ``least_members`` is the smallest number of clients whose slot is summed under secure aggregation. If it is not given, it is
    the smallest cohort of the aggregator and the clients that a round may lose.
    """

    sums: ClassVar[bool] = True

    by_loss: ClassVar[bool] = False
    """Whether a client chooses by the losses of its training examples, before it trains."""

    clusters: Clusters = 2
    least_members: PositiveInt | None = None

    @property
    def models(self) -> int:
        """M."""
        return self.clusters

    @property
    def sorted_by_server(self) -> bool:
        """Whether the server fills the slots, from the updates that it sees."""
        return False

    def check(self, config: ExperimentConfig) -> None:
        """Raise also if plan, aggregator or attacks cannot carry several models."""
        super().check(config)
        if self.clusters == 1:
            return
        key, privacy, aggregator = "algorithm.kind", config.privacy, config.aggregator
        if config.data.clients is not None and self.clusters > config.data.clients:
            raise contradiction(
                "algorithm.clusters", self.clusters, f"must be at most data.clients = {config.data.clients}, one client in each"
            )
        if self.sorted_by_server and getattr(aggregator, "hides_updates", False):
            raise contradiction(
                key,
                self.kind,
                f"sorts clients by updates that the server sees, and {aggregator.kind!r} hides them; {self.way_out}",
            )
        if self.sorted_by_server and privacy.promises and not privacy.noises_messages:
            raise contradiction(
                key,
                self.kind,
                f"sorts clients by updates that have no noise yet under {privacy.kind!r}, which no ε covers; set "
                "privacy.kind = 'example' or 'client_local', or algorithm.kind = 'ifca'",
            )
        if self.by_loss and privacy.promises and not privacy.clips_messages:
            raise contradiction(
                key,
                self.kind,
                f"chooses by losses of training examples, which have no noise under {privacy.kind!r}; set algorithm.kind = "
                "'kmeans', which chooses by noised updates, or a client-level plan",
            )
        if privacy.clips_messages and (kind := privacy.clipping.kind) != "flat":  # type: ignore[attr-defined]
            raise contradiction(
                "privacy.clipping.kind", kind, f"update and count of {self.kind!r} are clipped to one norm; set 'flat'"
            )
        if config.pace.kind != "synchronous":
            raise contradiction(
                "pace.kind",
                config.pace.kind,
                f"cannot carry the {self.clusters} models of algorithm {self.kind!r}; set pace.kind = 'synchronous'",
            )
        if config.attacks.run:
            raise contradiction(
                "attacks.run",
                [item.kind for item in config.attacks.run],
                f"reads one global model, and {self.kind!r} has {self.clusters}; set attacks.run = [], or clusters = 1",
            )
        if config.canaries is not None:
            raise contradiction(
                "canaries.kind",
                config.canaries.kind,
                f"an audit reads one global model, and {self.kind!r} has {self.clusters}; set algorithm.clusters = 1",
            )

    @property
    def way_out(self) -> str:
        """Advice if the aggregator hides updates from a server that is to sort them."""
        return "set aggregator.kind = 'mean', or algorithm.kind = 'ifca' or 'kmeans', whose clients choose by themselves"

    def require(self, plan: Plan, aggregator: Aggregator, clients: int) -> None:
        """Raise, before training, if the sums would say more than they may.

        Args:
            plan: the plan of the run.
            aggregator: its aggregator.
            clients: the number of clients.

        Raises:
            ConfigError: names the setting and the way out.
        """
        if self.clusters > clients:
            raise ConfigError(f"algorithm.clusters = {self.clusters}: must be at most the number of clients, {clients}")
        if self.clusters == 1 or not aggregator.hides_updates:
            return
        if plan.trusts_server:
            raise ConfigError(
                f"aggregator.kind = {aggregator.kind!r}: a cluster of one client would be summed alone, and how many there are "
                "may not be asked without noise; set aggregator.kind = 'mean', since this plan trusts the server, or "
                "privacy.kind = 'client_distributed'"
            )
        least = aggregator.minimum_clients
        if self.least_members is not None and self.least_members < least and not plan.clips_updates:
            raise ConfigError(
                f"algorithm.least_members = {self.least_members}: {aggregator.kind!r} sums at least {least} clients; set "
                f"{least} or more, or leave it out"
            )

    def members_needed(self, plan: Plan, aggregator: Aggregator, cohort: int) -> int:
        """The smallest number of clients whose slot is summed; 1 if nobody is asked for counts.

        Args:
            plan: under a client-level plan each slot has its noise.
            aggregator: if it hides no updates, its server sees who is in which cluster anyway.
            cohort: the number of clients of the round, some of which may be lost after they were counted.
        """
        if self.clusters == 1 or self.sorted_by_server or plan.clips_updates:
            return 1
        if self.least_members is not None:
            return self.least_members
        return aggregator.minimum_clients + aggregator.allowed(cohort)[1] if aggregator.hides_updates else 1

    # --- the shape of messages and sums ------------------------------------------------------------------------------------

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """The update if the server sorts; otherwise M slots and counts."""
        return {UPDATE: layout} if self.sorted_by_server else self.summed(layout)

    def summed(self, layout: Layout) -> dict[str, Layout]:
        """The parts of the sum: M slots, and a count for each; of a single model the update alone."""
        if self.clusters == 1:
            return {UPDATE: layout}
        return {UPDATE: repeated(layout, self.clusters), COUNT: Layout((COUNT,), ((self.clusters,),))}

    def viewed(self, layout: Layout) -> Layout:
        """That of the model if the server sorts; otherwise that of M models."""
        return self.parts(layout)[UPDATE]

    def filled(self, delta_D: Tensor, slot: int | None, count: float) -> Payload:
        """The parts of the sum that one client adds, with its update in its slot and zeros elsewhere."""
        slots_MD, counts_M = delta_D.new_zeros(self.clusters, len(delta_D)), delta_D.new_zeros(self.clusters)
        if slot is not None:
            slots_MD[slot], counts_M[slot] = delta_D, count
        return {UPDATE: slots_MD.flatten(), COUNT: counts_M}

    # --- a round -----------------------------------------------------------------------------------------------------------

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def start(self, told: State, models_MD: Tensor, client: int, kept: State) -> Tensor:  # noqa: ARG002
        """The model that a client trains from, shape (D,), unless it chooses by losses.

        Args:
            told: the part of the server's state that clients receive.
            models_MD: the global models.
            client: its number.
            kept: its own state.
        """
        return models_MD[0]

    def rank(self, told: State, kept: State, delta_D: Tensor) -> list[int]:  # noqa: ARG002
        """The slots that a client would fill after its training, the best first; empty: none.

        Args:
            told: as for :meth:`start`.
            kept: as for :meth:`start`.
            delta_D: its update, which has its noise under an example-level plan.
        """
        return [0]

    def moves(self, told: State) -> bool:  # noqa: ARG002
        """Whether a client whose slot is closed takes another one; otherwise it sends zeros in this round."""
        return True

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """The update if the server sorts, or of a single model; otherwise the filled slot."""
        if self.sorted_by_server or self.clusters == 1:
            return {UPDATE: trained.delta_D}, client
        return self.filled(trained.delta_D, trained.slot, count_entry(trained.terms)), client

    def sort(self, server: State, updates: Mapping[int, Tensor]) -> tuple[dict[int, int | None], State]:
        """The slot of each client, by the server, and the server's state with it; called only if the server sorts.

        Args:
            server: the server's state.
            updates: the clients' updates as the server sees them.
        """
        raise NotImplementedError

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """Each model moves by its own slot's mean; a model without members stays."""
        return self.means(mean, terms).flatten(), server

    def means(self, mean: Payload, terms: Terms) -> Tensor:
        """The mean update of each slot, shape (M, D); zeros for a slot without members."""
        if self.clusters == 1:
            return mean[UPDATE][None]
        counts_M = mean[COUNT] / count_entry(terms)
        some_M = counts_M > 0
        least = _LEAST_COUNT / self.clusters if terms.norm is not None else torch.finfo(counts_M.dtype).tiny
        means_MD = mean[UPDATE].view(self.clusters, -1) / counts_M.clamp_min(least)[:, None]
        return torch.where(some_M[:, None], means_MD, torch.zeros_like(means_MD))

    def overall(self, mean: Payload, terms: Terms) -> Tensor:
        """The mean update over all slots, shape (D,)."""
        if self.clusters == 1:
            return mean[UPDATE]
        total = float((mean[COUNT] / count_entry(terms)).sum())
        return mean[UPDATE].view(self.clusters, -1).sum(0) / max(total, _LEAST_COUNT if terms.norm is not None else 1e-12)

    def before_step(self, server: State, models_MD: Tensor) -> State:  # noqa: ARG002
        """The server's state with what it keeps of the models before they move.

        Args:
            server: the server's state.
            models_MD: the models before the step.
        """
        return server

    def rests(self, server: State) -> bool:  # noqa: ARG002
        """Whether the models stay as they are in this round.

        Args:
            server: the server's state before :meth:`apply`.
        """
        return False

    def origins(self, server: State) -> Sequence[int] | None:  # noqa: ARG002
        """For each model the one that it goes on from in this round, by number; None: its own.

        Args:
            server: the server's state after :meth:`apply`.
        """
        return None

    def place(self, server: State, client: int, kept: State) -> int | None:  # noqa: ARG002
        """The cluster of a client; None if it was never placed, and is known by its training loss alone.

        Args:
            server: the server's state.
            client: its number.
            kept: its own state.
        """
        return None


WHO, SLOT = "who", "slot"
"""Two tensors in a server's state: numbers of clients, and the cluster of each. A client is sent its own entry."""


def nobody_placed() -> State:
    """The two tensors before the first client is placed."""
    return {WHO: torch.zeros(0, dtype=torch.int64), SLOT: torch.zeros(0, dtype=torch.int64)}


def placed(server: State) -> dict[int, int]:
    """The cluster of each client that the server has placed, by client."""
    return dict(zip(server[WHO].tolist(), server[SLOT].tolist(), strict=True))


def placing(places: Mapping[int, int], device: torch.device) -> State:
    """The two tensors for these clusters by client."""
    order = sorted(places)
    return {
        WHO: torch.tensor(order, dtype=torch.int64, device=device),
        SLOT: torch.tensor([places[client] for client in order], dtype=torch.int64, device=device),
    }


def count_entry(terms: Terms) -> float:
    """s, the entry by which a client counts itself: 1, or a share of the norm that it is clipped to beside the update."""
    return 1.0 if terms.norm is None else _COUNT_SHARE * terms.norm


def repeated(layout: Layout, times: int) -> Layout:
    """The layout of several models, one after another, with names such as ``cluster 2:weight``; of one model its own."""
    if times == 1:
        return layout
    return Layout(
        tuple(f"{cluster_name(place)}:{name}" for place in range(times) for name in layout.names),
        tuple(shape for _ in range(times) for shape in layout.shapes),
    )


def cluster_name(place: int) -> str:
    """The name of a cluster for readers: ``cluster 1`` is the first."""
    return f"cluster {place + 1}"


def opened(wanted: Sequence[int], least: int, *, moves: bool) -> list[int]:
    """The slots that may be summed: those with enough members.

    If none has enough and clients take another slot, it is the one with the most members. Everybody then fills it, so that it
    has the whole cohort.

    Args:
        wanted: the number of clients that would fill each slot.
        least: the smallest number of clients whose slot is summed.
        moves: whether a client whose slot is closed takes another one.
    """
    enough = [slot for slot, count in enumerate(wanted) if count >= least]
    return enough or ([max(range(len(wanted)), key=lambda slot: wanted[slot])] if moves else [])
