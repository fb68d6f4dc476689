"""Difficulty calibration: the loss beside its mean without the example (Watson et al. 2022)."""

from __future__ import annotations

from attacks.membership import Evidence, FloatArray
from attacks.membership._sides import Sides, TwoSidedAttack, surprise


class Watson(TwoSidedAttack):
    """How much smaller is the loss than it usually is for this example, if nobody trained on it?

    Variants:
        ``loss``: mean of the loss over the shadows without the example, minus the target's (equation 2).
        ``confidence``: the same with the task's confidence φ in place of minus the loss.
    """

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        sides = Sides.of(evidence)
        losses = Sides.of(evidence, -surprise(sides.target_N), -surprise(sides.shadow_SN))
        return {name: one.target_N - one.means()[1] for name, one in (("loss", losses), ("confidence", sides))}
