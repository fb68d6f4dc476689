"""The threshold of each example lies between its mean losses with and without it (Sablayrolles et al. 2019)."""

from __future__ import annotations

from attacks.membership import Evidence, FloatArray
from attacks.membership._sides import Sides, TwoSidedAttack, surprise


class Sablayrolles(TwoSidedAttack):
    """Minus the loss, above the middle of its means over the shadows with the example and those without (section 4.3, MATT)."""

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        confidence = Sides.of(evidence)
        losses = Sides.of(evidence, -surprise(confidence.target_N), -surprise(confidence.shadow_SN))
        in_N, out_N = losses.means()
        return {"middle": losses.target_N - (in_N + out_N) / 2}
