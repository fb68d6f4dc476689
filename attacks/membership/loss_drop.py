"""The loss of an example before and after its client's local training."""

from __future__ import annotations

from typing import ClassVar

from attacks.membership import FloatArray
from attacks.membership._updates import SeenRound, UpdatesAttack


class LossDrop(UpdatesAttack):
    """Does the local training of a client lower the loss of this example?

    The loss at the global model that the round began with, minus the loss at the local model, which is the global one plus the
    client's update. It costs two passes forward for each example and round.

    Variants:
        ``drop``: its mean over the rounds in which the update of the example's client arrived.
    """

    threat: ClassVar[str] = "A server that sees each client's update and has an example wants to know who trained on it."

    cost: ClassVar[str] = "two passes forward over the candidates in each round"

    def score(self, seen: SeenRound) -> dict[str, FloatArray]:
        """See :class:`attacks.membership._updates.UpdatesAttack`."""
        own = seen.own
        return {"drop": own.losses_N - own.local_losses_N}
