"""How much shorter a client's update becomes without an example's gradient (Li, Li & Ribeiro 2023), rightly scaled."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks.membership import FloatArray
from attacks.membership._updates import SeenRound, UpdatesAttack
from privfl.errors import ConfigError
from privfl.running.knowledge import Prospect


class GradientDifference(UpdatesAttack):
    """Does the sum of a client's gradients become shorter if the gradient of this example is taken out?

    An update is about −s Σ_i g_i over the client's examples, with s = lr · steps / n. With Δ the global model minus the local
    one, the score is (‖Δ‖² − ‖Δ − s g‖²) / s² = 2⟨Δ, g⟩/s − ‖g‖². With s = 1, far above what it is, hardly more than −‖g‖²
    would be left. It is right for one step. Each further step moves the gradients, and after several epochs the cosine finds
    more.

    Variants:
        ``scaled``: its mean over the rounds in which the update of the example's client arrived.
    """

    threat: ClassVar[str] = "A server that sees each client's update and has an example wants to know who trained on it."

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: an update is linear in the gradients."""
        super().require_possible(prospect)
        if prospect.protocol.example_weight(0) is None:
            raise ConfigError(
                f"training.optimizer = {prospect.protocol.training.optimizer.kind!r}: {self.kind!r} takes a client's gradients "
                "from its update, which must be linear in them; set 'sgd', or attack with 'membership/gradient_cosine'"
            )

    def score(self, seen: SeenRound) -> dict[str, FloatArray]:
        """See :class:`attacks.membership._updates.UpdatesAttack`."""
        scales = [seen.knowledge.protocol.example_weight(seen.number, weight) for weight in seen.weights_K.tolist()]
        scale_K, own = np.array(scales, dtype=np.float64), seen.own
        return {"scaled": 2 * own.inner_N / scale_K[seen.places] - own.squares_N}
