"""Difficulty calibration: the loss beside its mean without the example (Watson et al. 2022)."""

from __future__ import annotations

from typing import ClassVar

from attacks.membership import BoolArray, Evidence, FloatArray, MembershipAttack
from attacks.membership._sides import Sides, require_both_sides, surprise


class Watson(MembershipAttack):
    """How much smaller is the loss than it usually is for this example, if nobody trained on it?

    Variants:
        ``loss``: mean of the loss over the shadows without the example, minus the target's (equation 2).
        ``confidence``: the same with the task's confidence φ in place of minus the loss.
    """

    threat: ClassVar[str] = "Whoever has the final model and can train others like it wants to know who was trained on."

    least_shadows: ClassVar[int] = 1

    def require_shadows(self, member_SN: BoolArray) -> None:
        """See :class:`attacks.Attack`: both sides are needed."""
        super().require_shadows(member_SN)
        require_both_sides(member_SN)

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        sides = Sides.of(evidence)
        losses = Sides.of(evidence, -surprise(sides.target_N), -surprise(sides.shadow_SN))
        return {name: one.target_N - one.means()[1] for name, one in (("loss", losses), ("confidence", sides))}
