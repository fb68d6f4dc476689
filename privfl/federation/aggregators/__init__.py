"""SHELF of aggregators. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Aggregator`. It takes the cohort's updates and gives the
server their weighted mean; what else the server saw on the way is part of the result, for the server's view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from privfl.privacy.distributed import DistributedCodec
from privfl.processes import ALONE, Processes
from privfl.records import SecureRecord, StageSeconds
from privfl.tables import Item
from privfl.vectors import Layout


@dataclass(frozen=True)
class ClientUpdate:
    """What one client hands in: local minus global model, and its weight in the mean, in [0, 1]."""

    client: int
    delta_D: Tensor
    weight: float


@dataclass(frozen=True)
class RoundContext:
    """What both ends of an aggregation know.

    Args:
        round: the round's number, from 0.
        global_D: the global model that the cohort trained from.
        layout: names and shapes of its parameters.
        population: the number of clients there are; no cohort is larger.
        simulation_key: 32 bytes for what of the round is simulated and must be repeatable: the rounding, and who is
            lost. Of this run and round alone; keys and masks are not made from it.
        run: names the run, so that nothing that a client signs in it passes in another.
        transcript: a folder for what is too large for memory of all that the server is sent under secure aggregation; None
            where it is not kept. No name is left in it.
        observed: whether anybody will ask what the server saw; ``Aggregate.seen`` may be empty where not.
        processes: those that the cohort's clients are spread over.
        codec: how clients encode and noise their updates, where the noise is distributed; else None. The words of its
            clients are then summed modulo 2^bits, ``sum_D`` is what it decodes, and ``weight_sum`` is the number of them.
        noise_key: 32 bytes for the clients' shares of that noise, of this run and round alone; secret.
        models: by client, the model that each was sent, if a malicious server sent them different ones; else empty.
    """

    round: int
    global_D: Tensor
    layout: Layout
    population: int
    simulation_key: bytes
    run: str
    transcript: Path | None = None
    observed: bool = True
    processes: Processes = ALONE
    codec: DistributedCodec | None = None
    noise_key: bytes = b""
    models: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What an aggregation cost: bytes of all clients together, seconds of the mean client and of the server.

    ``bytes_up`` is all that clients send for the sake of the aggregation, the updates included; ``bytes_down`` what they
    are sent for it. The global model, which every client is sent whatever the aggregator, and the transport's own framing
    are not counted. Seconds are wall-clock time, of training nothing.
    """

    bytes_up: int
    bytes_down: int
    client_seconds: float
    server_seconds: float


@dataclass(frozen=True)
class Aggregate:
    """The result of one aggregation.

    Args:
        mean_D: the weighted mean of the survivors' updates; None where too few survived.
        sum_D: Σ weight · update over them, in float64, as exact as the server learns it; None likewise.
        weight_sum: Σ weight.
        survivors: the clients whose updates are in it, ascending.
        failed: why there is no mean, where there is none.
        ends_run: whether the run is to end with this round, for that reason.
        cost: bytes and seconds.
        clipped: how many coordinates of all updates were clipped by the encoding. A fact of the simulation: no server
            sees it.
        seen: what the server saw of the updates, by name: ``updates_KD`` and ``weights_K`` in the clear, or ``sum_D``
            and ``weight_sum`` under secure aggregation.
        secure: what the protocol of secure aggregation did, where there was one.
        stages: the seconds of its stages.
        transcripts: all that the server was sent, one for each attempt, where it was to be kept; the masked vectors of each lie
            in a file without a name, which is gone with the tensor.
    """

    mean_D: Tensor | None
    sum_D: Tensor | None
    weight_sum: float
    survivors: tuple[int, ...]
    cost: Cost
    clipped: int
    seen: dict[str, Tensor]
    failed: str | None = None
    ends_run: bool = False
    secure: SecureRecord | None = None
    stages: tuple[StageSeconds, ...] = ()
    transcripts: tuple[dict[str, Tensor], ...] = ()


class Aggregator(Item, ABC):
    """The contract of this shelf."""

    hides_updates: ClassVar[bool]
    """Whether the server sees sums only."""

    linear: ClassVar[bool] = False
    """Whether ``sum_D`` is Σ weight · update over the survivors, and ``weight_sum`` is Σ weight. A plan that noises or prices
    the sum requires it: one client moves a weighted sum by no more than its clipping norm, and a median by as much as others
    allow."""

    uses_codec: ClassVar[bool] = False
    """Whether it encodes by the context's codec where there is one. A round with a codec is refused otherwise: its noise is
    in nothing but the codec's words."""

    minimum_clients: ClassVar[int] = 1
    """A cohort smaller than this is not trained: the round is skipped, and the record says so."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """An ``aggregate`` of one's own inherits no ``linear``: a median derived from the mean would else be called one."""
        super().__init_subclass__(**kwargs)
        if {"aggregate", "collect"} & vars(cls).keys() and "linear" not in vars(cls):
            cls.linear = False

    def allowed(self, clients: int) -> tuple[int, int]:  # noqa: ARG002
        """How many of so many clients may be corrupt, and how many may be lost, without harm to what is promised."""
        return 0, 0

    def rounding_norm(self, context: RoundContext) -> float:  # noqa: ARG002
        """How far the encoding may move one client's weighted update, in L2; 0 where it is handed in as it is."""
        return 0.0

    def carries(self, entry: float, context: RoundContext) -> bool:  # noqa: ARG002
        """Whether entries of that size, of weight 1, come out of the sum as they are, neither rounded nor clipped."""
        return True

    @abstractmethod
    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """The weighted mean of at least ``minimum_clients`` updates, in whatever order they come.

        Raises:
            ProtocolError: one of the protocol's checks failed, and there is no sum.
            ConfigError: the settings cannot hold a sum over the population; raised before anything is sent.
        """

    def collect(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate | None:
        """The same where the cohort is spread over processes: each calls it with its own clients' updates, be there any.

        Unless an item knows a shorter way, all updates travel to the first process, where the server is.

        Returns:
            the aggregate at the first process, None at the others.
        """
        # Arrays, since of a tensor that is a row of another the whole other would travel.
        rows = [(update.client, update.delta_D.detach().cpu().numpy(), update.weight) for update in updates]
        gathered = [one for some in context.processes.gather(rows) for one in some]
        if not context.processes.first:
            return None
        device = context.global_D.device
        return self.aggregate([ClientUpdate(who, torch.from_numpy(row_D).to(device), w) for who, row_D, w in gathered], context)
