"""The threshold of each example lies between its mean losses with and without it (Sablayrolles et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

from attacks.membership import BoolArray, Evidence, FloatArray, MembershipAttack
from attacks.membership._sides import Sides, require_both_sides, surprise


class Sablayrolles(MembershipAttack):
    """Minus the loss, above the middle of its means over the shadows with the example and those without (section 4.3, MATT)."""

    threat: ClassVar[str] = "Whoever has the final model and can train others like it wants to know who was trained on."

    least_shadows: ClassVar[int] = 1

    def require_shadows(self, member_SN: BoolArray) -> None:
        """See :class:`attacks.Attack`: both sides are needed."""
        super().require_shadows(member_SN)
        require_both_sides(member_SN)

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        confidence = Sides.of(evidence)
        losses = Sides.of(evidence, -surprise(confidence.target_N), -surprise(confidence.shadow_SN))
        in_N, out_N = losses.means()
        return {"middle": losses.target_N - (in_N + out_N) / 2}
