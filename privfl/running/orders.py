"""Rounds beyond those of a run: the models that a malicious server sends, and the answers of the clients.

Suffixes: K clients, D parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from privfl.errors import ViewError


@dataclass(frozen=True, eq=False, repr=False)
class Order:
    """The models that a malicious server sends in one round, each of shape (D,).

    Args:
        model_D: the model for everybody.
        instead: by client, the model for those who are sent another one.
    """

    model_D: Tensor
    instead: Mapping[int, Tensor] = field(default_factory=dict)

    def to(self, client: int) -> Tensor:
        """The model that a client is sent."""
        return self.instead.get(client, self.model_D)


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """The server's view of a round that it asked for.

    Args:
        number: of the round, which goes on from the run's own.
        order: the models that it sent.
        participants: the clients that took part.
        survivors: those of them whose updates are in the sum.
        failed: why there is no sum, if there is none; :meth:`sums` then gives noise, or raises.
        seen: the values that the aggregator revealed, by name.
    """

    number: int
    order: Order
    participants: tuple[int, ...]
    survivors: tuple[int, ...]
    failed: str | None
    seen: Mapping[str, Tensor]

    @property
    def shows_updates(self) -> bool:
        """Whether the server saw single updates."""
        return "updates_KD" in self.seen

    def updates(self) -> tuple[Tensor, Tensor]:
        """Each survivor's update (K, D) and weight (K,), in the order of ``survivors``; each began at its own model.

        Raises:
            ViewError: secure aggregation hid them, or nothing came.
        """
        if not self.shows_updates:
            raise ViewError(
                f"round {self.number}: {self.failed or 'under secure aggregation the server sees sums only'}; "
                "attack the sum, or run with aggregator.kind = 'mean'"
            )
        return self.seen["updates_KD"], self.seen["weights_K"]

    def sums(self) -> tuple[Tensor, float]:
        """The sum of the weighted updates, a vector of length D in float64, and the sum of the weights.

        Raises:
            ViewError: nothing came.
        """
        if self.shows_updates:
            updates_KD, weights_K = self.updates()
            return weights_K.double() @ updates_KD.double(), float(weights_K.sum())
        if "sum_D" not in self.seen:
            raise ViewError(f"round {self.number}: {self.failed or 'nobody took part'}; the server saw nothing of it")
        return self.seen["sum_D"], float(self.seen["weight_sum"])
