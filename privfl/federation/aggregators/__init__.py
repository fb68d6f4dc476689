"""SHELF of aggregators, which average the cohort's updates. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Aggregator`. Its result also holds everything else that the
server saw during aggregation, for the server's view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
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
    """The contribution of one client: local minus global model, and its weight in the mean, in [0, 1]."""

    client: int
    delta_D: Tensor
    weight: float


@dataclass(frozen=True)
class RoundContext:
    """Facts that clients and server share during aggregation.

    Args:
        round: the round's number, from 0.
        global_D: the global model that the cohort trained from.
        layout: names and shapes of its parameters.
        population: the number of clients of the federation; no cohort is larger.
        simulation_key: 32 bytes for the simulated randomness of this round that must be repeatable: rounding and client
            dropout. Keys and masks do not depend on it.
        run: text that identifies the run, so that a client's signature is valid in this run only.
        transcript: a folder for messages of secure aggregation that are too large for memory; None if they are not kept. Its
            files have no names.
        observed: whether the server's view is kept; ``Aggregate.seen`` may be empty if not.
        processes: the processes that train the cohort.
        codec: the clients' encoding with noise if the noise is distributed, else None. The encoded words are summed modulo
            2^bits, ``sum_D`` is the decoded sum, and ``weight_sum`` is the number of clients.
        noise_key: 32 secret bytes for the clients' shares of that noise, for this run and round only.
        told: by name, the tensors that clients are sent beside the model: of the algorithm's state, and a norm that adapts.
        root: trains the server's own update from the global model, shape (D,); None if the server has no examples.
        lost: clients of the cohort whose messages stop after their keys were exchanged, since they are late.
        models: by client, the model that each was sent, if a malicious server sent different ones; else empty.
        compressed: the bytes of an update that was compressed to less than a float32 for each coordinate, and was decoded
            before it is aggregated; None: it was not.
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
    told: Mapping[str, Tensor] = field(default_factory=dict)
    models: Mapping[int, Tensor] = field(default_factory=dict)
    compressed: int | None = None
    root: Callable[[], Tensor] | None = None
    lost: frozenset[int] = frozenset()

    @property
    def plain_bytes(self) -> int:
        """The bytes of a client's update in the clear, and of its weight, a float32."""
        return (4 * self.layout.size if self.compressed is None else self.compressed) + 4


@dataclass(frozen=True)
class Cost:
    """The cost of an aggregation: bytes of all clients together, and seconds of the mean client and of the server.

    ``bytes_up`` is all that clients send for the aggregation, the updates included, and ``bytes_down`` all that they receive
    for it. The global model is not counted, because clients receive it with every aggregator. Nor is the transport's framing
    counted. Seconds are wall-clock time without training.
    """

    bytes_up: int
    bytes_down: int
    client_seconds: float
    server_seconds: float


@dataclass(frozen=True)
class Aggregate:
    """The result of one aggregation.

    Args:
        mean_D: the weighted mean of the survivors' updates; None if too few clients survived.
        sum_D: Σ weight · update over the survivors, in float64, as exact as the server learns it; None in the same case.
        weight_sum: Σ weight.
        survivors: the clients whose updates are in the sum, ascending.
        cost: bytes and seconds.
        clipped: the number of coordinates, over all updates, that the encoding clipped. Only the simulation knows it: no server
            sees it.
        seen: the part of the updates that the server saw, by name: ``updates_KD`` and ``weights_K`` in the clear, or ``sum_D``
            and ``weight_sum`` under secure aggregation.
        failed: the reason why there is no mean; None if there is one.
        ends_run: whether the run ends with this round for that reason.
        secure: figures of the secure aggregation protocol; None if there was none.
        stages: seconds of its stages.
        transcripts: all messages to the server, one dictionary per attempt, if they are kept. The masked vectors are in a file
            without a name, which disappears with the tensor.
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
    """An aggregator: it returns the weighted mean of the clients' updates."""

    hides_updates: ClassVar[bool]
    """Whether the server sees sums only."""

    linear: ClassVar[bool] = False
    """Whether ``sum_D`` is Σ weight · update over the survivors, and ``weight_sum`` is Σ weight.

    A plan that adds noise to the sum, or prices it, requires this. One client moves a weighted sum by at most its clipping
    norm. A median has no such bound.
    """

    uses_codec: ClassVar[bool] = False
    """Whether it encodes updates with the context's codec if there is one.

    If not, a round with a codec is refused, because the noise is part of the codec's encoding only.
    """

    decodes: ClassVar[bool] = True
    """Whether the server has each update by itself before it adds them up, so that it can decode a compressed one."""

    minimum_clients: ClassVar[int] = 1
    """The smallest cohort that is trained. A round with a smaller one is skipped, and the record says so."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Reset ``linear`` in a subclass with its own ``aggregate``.

        Otherwise a median derived from the mean would count as linear.
        """
        super().__init_subclass__(**kwargs)
        if {"aggregate", "collect"} & vars(cls).keys() and "linear" not in vars(cls):
            cls.linear = False

    @property
    def server_rows(self) -> int:
        """The number of examples that the server trains on by itself."""
        return 0

    def allowed(self, clients: int) -> tuple[int, int]:  # noqa: ARG002
        """The number of clients that may be corrupt, and the number that may be lost, without harm to the promise.

        Args:
            clients: the number of clients of the cohort.
        """
        return 0, 0

    def rounding_norm(self, context: RoundContext) -> float:  # noqa: ARG002
        """The largest change, in L2 norm, that encoding makes to one client's weighted update; 0 without an encoding."""
        return 0.0

    def carries(self, entry: float, context: RoundContext) -> bool:  # noqa: ARG002
        """Whether entries of that size with weight 1 pass through the sum exactly, neither rounded nor clipped."""
        return True

    @abstractmethod
    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """The weighted mean of at least ``minimum_clients`` updates, in any order.

        Raises:
            ProtocolError: one of the protocol's checks failed, and there is no sum.
            ConfigError: the settings cannot hold a sum over the population; raised before anything is sent.
        """

    def collect(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate | None:
        """Aggregate a cohort that is spread over processes. Each process calls it with its own clients' updates, possibly none.

        By default all updates travel to the first process, which plays the server. An item may have a shorter way.

        Returns:
            the aggregate at the first process, None at the others.
        """
        # Arrays, because pickling a tensor that is a row of another would send the other tensor whole.
        rows = [(update.client, update.delta_D.detach().cpu().numpy(), update.weight) for update in updates]
        gathered = [one for some in context.processes.gather(rows) for one in some]
        if not context.processes.first:
            return None
        device = context.global_D.device
        return self.aggregate([ClientUpdate(who, torch.from_numpy(row_D).to(device), w) for who, row_D, w in gathered], context)
