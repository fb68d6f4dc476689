"""SHELF of aggregators. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Aggregator`. It takes the cohort's updates and gives the
server their weighted mean; what else the server saw on the way is part of the result, for the server's view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from privfl.config import Item
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
        rounding_key: 32 bytes for the rounding's randomness, of this run and round alone. Rounding is part of the
            experiment and must be repeatable; keys and masks are not made from it.
    """

    round: int
    global_D: Tensor
    layout: Layout
    population: int
    rounding_key: bytes


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
        mean_D: the weighted mean of the updates.
        cost: bytes and seconds.
        clipped: how many coordinates of all updates were clipped by the encoding. A fact of the simulation: no server
            sees it.
        seen: what the server saw of the updates, by name: ``updates_KD`` and ``weights_K`` in the clear, or ``sum_D``
            and ``weight_sum`` under secure aggregation.
    """

    mean_D: Tensor
    cost: Cost
    clipped: int
    seen: dict[str, Tensor]


class Aggregator(Item, ABC):
    """The contract of this shelf."""

    hides_updates: ClassVar[bool]
    """Whether the server sees sums only."""

    minimum_clients: ClassVar[int] = 1
    """A cohort smaller than this is not trained: the round is skipped, and the record says so."""

    @abstractmethod
    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """The weighted mean of at least ``minimum_clients`` updates, in whatever order they come.

        Raises:
            ProtocolError: one of the protocol's checks failed; nothing was revealed.
            ConfigError: the settings cannot hold a sum over the population; raised before anything is sent.
        """
