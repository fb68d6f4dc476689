"""The cosine between a client's update and an example's gradient (Li, Li & Ribeiro 2023, "Effective passive membership
inference attacks in federated learning against overparameterized models").
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks.membership import FloatArray
from attacks.membership._gradients import cosines
from attacks.membership._updates import SeenRound, UpdatesAttack


class GradientCosine(UpdatesAttack):
    """Does the update that a client sent go against the gradient of this example?

    For each round in which the update of the example's client arrived: the cosine between minus that update and the gradient
    of the example's loss at the model that the round began with. No shadow models.

    Variants:
        ``cosine``: its mean over those rounds; the median for the examples of a client that never took part, about which the
        attack knows nothing.
    """

    threat: ClassVar[str] = "A server that sees each client's update and has an example wants to know who trained on it."

    def score(self, seen: SeenRound) -> dict[str, FloatArray]:
        """See :class:`attacks.membership._updates.UpdatesAttack`."""
        own = seen.own
        cosines_N = cosines(own.inner_N, own.squares_N, own.norms_N)
        return {"cosine": np.where(seen.places >= 0, cosines_N, np.nan)}
