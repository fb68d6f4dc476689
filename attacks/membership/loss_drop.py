"""The loss of an example before and after its client's local training."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks.membership import FloatArray
from attacks.membership._updates import SeenRound, UpdatesAttack, losses


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
        local_N = np.full(len(seen.knowledge.candidates), np.nan)
        for k, rows_n in seen.rows():
            local_N[rows_n] = seen.local_losses(k, rows_n)
        return {"drop": losses(seen.knowledge, seen.model_D) - local_N}
