"""The inner product of a client's update with an example's gradient (Li, Li & Ribeiro 2023)."""

from __future__ import annotations

from typing import ClassVar

from attacks.membership import FloatArray
from attacks.membership._updates import SeenRound, UpdatesAttack


class InnerProduct(UpdatesAttack):
    """How far does the update that a client sent go against the gradient of this example?

    ⟨Δ, g⟩, with Δ the global model minus the local one and g the gradient of the example's loss at the global model. An example
    that was trained on adds about s‖g‖² to it, so that examples with large gradients count for more than by the cosine.

    Variants:
        ``inner product``: its mean over the rounds in which the update of the example's client arrived.
    """

    threat: ClassVar[str] = "A server that sees each client's update and has an example wants to know who trained on it."

    def score(self, seen: SeenRound) -> dict[str, FloatArray]:
        """See :class:`attacks.membership._updates.UpdatesAttack`."""
        return {"inner product": seen.own.inner_N}
