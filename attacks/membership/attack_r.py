"""Attack-R: the loss beside that of reference models on the same example (Ye et al. 2022, section 4.3)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks.membership import Evidence, FloatArray, MembershipAttack
from attacks.membership._sides import surprise


class AttackR(MembershipAttack):
    """The share of shadows that did not train on the example and have a larger loss on it; ties count half.

    With few shadows many candidates tie, often so many that no threshold has a low false-positive rate. An example that every
    shadow trained on is compared with all of them.
    """

    threat: ClassVar[str] = "An adversary with the final model who trains others like it wants to know who was trained on."

    needs: ClassVar[str] = "the final model, shadow models"

    cost: ClassVar[str] = "the training of the shadow models"

    least_shadows: ClassVar[int] = 1

    by_signals: ClassVar[bool] = True

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        loss_N = surprise(evidence.signals.target_N)
        shadow_SN = surprise(evidence.signals.shadow_SN)
        out_SN = ~evidence.shadow_member_SN
        out_SN |= ~out_SN.any(axis=0)
        beaten_SN = (shadow_SN > loss_N) + 0.5 * (shadow_SN == loss_N)
        return {"reference": np.asarray((beaten_SN * out_SN).sum(axis=0) / out_SN.sum(axis=0))}
