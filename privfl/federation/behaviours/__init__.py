"""SHELF of client behaviours. The file's name is its name in a configuration (``behaviour = "honest"``, the default).

A behaviour makes some clients depart from the protocol, before the plan acts. It may change the labels that they train on and
the payload that they send. The plan then clips and noises the payload as usual. A promise thus holds for every behaviour, and
one client still moves a sum by at most the clipping norm. No behaviour of this shelf circumvents the plan.

An item is one module with one class that derives from :class:`Behaviour`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from privfl.seeding import Seed
from privfl.tables import Item


class Behaviour(Item, ABC):
    """A client behaviour; by default labels and payloads stay as they are."""

    @abstractmethod
    def count(self, clients: int) -> int:
        """The number of misbehaving clients among that many clients."""

    def labels(self, y: Tensor, classes: int) -> Tensor:  # noqa: ARG002
        """The labels that a misbehaving client trains on.

        Args:
            y: the pool's labels, which stay unchanged.
            classes: the number of class names in the data.

        Raises:
            ConfigError: labels of this kind cannot be changed in this way.
        """
        return y

    def upload(self, joined_D: Tensor) -> Tensor:
        """The joined payload that a misbehaving client passes to the plan in place of the correct one, shape (D',)."""
        return joined_D

    def chosen(self, clients: int, stream: Seed) -> frozenset[int]:
        """The misbehaving clients, the same in all rounds.

        Args:
            clients: N, the number of clients.
            stream: the randomness of this choice.
        """
        return frozenset(map(int, stream.numpy().permutation(clients)[: self.count(clients)]))
