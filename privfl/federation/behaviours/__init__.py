"""SHELF of client behaviours. The file's name is its name in a configuration (``behaviour = "honest"``, the default).

A behaviour makes some clients depart from the protocol, before the plan acts. It may change the labels that they train on and
the payload that they send. The plan then clips and noises the payload as usual. A promise thus holds for every behaviour, and
one client still moves a sum by at most the clipping norm. No behaviour of this shelf circumvents the plan.

Attackers who collude send what they computed from one another's updates. If a plan protects clients, its promise then holds for
the other clients only: an attacker that shares its update with others gives up its own protection.

An item is one module with one class that derives from :class:`Behaviour`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from privfl.data.input_store import InputStore
from privfl.seeding import Seed
from privfl.tables import Item


@dataclass(frozen=True)
class Triggered:
    """Inputs that show a backdoor's trigger.

    Args:
        x: the inputs, N of them.
        target: the label that attackers want for them.
        counted_N: the inputs that count, a mask of shape (N,).
    """

    x: InputStore
    target: int
    counted_N: Tensor


class Behaviour(Item, ABC):
    """A client behaviour; by default labels and payloads stay as they are.

    ``colludes`` says whether misbehaving clients meet in each round before any of them sends something.
    """

    colludes: ClassVar[bool] = False

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

    def poisoned_pool(
        self,
        x: InputStore,
        y: Tensor,
        rows: Sequence[Tensor],  # noqa: ARG002
        classes: int,
        stream: Seed,  # noqa: ARG002
    ) -> tuple[InputStore, Tensor]:
        """The pool's inputs and labels as misbehaving clients see them; the pool itself stays unchanged.

        Args:
            x: the pool's inputs.
            y: the pool's labels.
            rows: the examples of each misbehaving client, by ascending client.
            classes: the number of class names in the data.
            stream: the randomness of the change.

        Raises:
            ConfigError: these data cannot be changed in this way.
        """
        return x, self.labels(y, classes)

    def triggered(self, x: InputStore, y: Tensor) -> Triggered | None:  # noqa: ARG002
        """Inputs with their labels, changed to measure a backdoor; None if the behaviour has none."""
        return None

    def upload(self, joined_D: Tensor) -> Tensor:
        """The joined payload that a misbehaving client passes to the plan in place of the correct one, shape (D',)."""
        return joined_D

    def uploads(self, honest: Mapping[int, Tensor], clients: int) -> dict[int, Tensor]:  # noqa: ARG002
        """The joined payloads of misbehaving clients, each of shape (D',).

        Args:
            honest: the correct payloads of misbehaving clients; of all in the round if they collude.
            clients: n, the number of clients in the round if they collude.
        """
        return {client: self.upload(joined_D) for client, joined_D in honest.items()}

    def chosen(self, clients: int, stream: Seed) -> frozenset[int]:
        """The misbehaving clients, the same in all rounds.

        Args:
            clients: N, the number of clients.
            stream: the randomness of this choice.
        """
        return frozenset(map(int, stream.numpy().permutation(clients)[: self.count(clients)]))
