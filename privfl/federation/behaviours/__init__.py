"""SHELF of behaviours of clients. The file's name is its name in a configuration (``behaviour = "honest"``, the default).

A behaviour says how some clients depart from the protocol, at the client and before the plan: on which labels they train, and
what becomes of their payload. The plan then clips and noises it as any other, so a promise holds whatever the behaviour is,
and one client still moves a sum by no more than the clipping norm. No behaviour of this shelf ignores the plan.

An item is one module with one class that derives from :class:`Behaviour`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from privfl.seeding import Seed
from privfl.tables import Item


class Behaviour(Item, ABC):
    """The contract of this shelf; the defaults are honest."""

    @abstractmethod
    def count(self, clients: int) -> int:
        """How many of so many clients behave so."""

    def labels(self, y: Tensor, classes: int) -> Tensor:  # noqa: ARG002
        """The labels that such a client trains on.

        Args:
            y: the pool's labels; they are left as they are.
            classes: how many names of classes the data give.

        Raises:
            ConfigError: such labels cannot be changed so.
        """
        return y

    def upload(self, joined_D: Tensor) -> Tensor:
        """The joined payload that such a client hands to the plan, in the place of its own."""
        return joined_D

    def chosen(self, clients: int, stream: Seed) -> frozenset[int]:
        """The clients that behave so, the same in all rounds.

        Args:
            clients: N, how many there are.
            stream: of this choice alone.
        """
        return frozenset(map(int, stream.numpy().permutation(clients)[: self.count(clients)]))
