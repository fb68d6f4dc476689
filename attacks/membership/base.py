"""BASE: a Bayes-optimal attack by averages of probabilities (Lassila et al. 2025; Brännvall 2026 for the third)."""

from __future__ import annotations

import numpy as np

from attacks.membership import Evidence, FloatArray
from attacks.membership._scores import base1, base3
from attacks.membership._sides import Sides, TwoSidedAttack


class Base(TwoSidedAttack):
    """The target's log-likelihood of the label beside the log of its average over shadows.

    Variants:
        ``BASE1, online``: log p_y − log of the mean of p_y over all shadows. It ranks candidates as RMIA does online, without a
        population and without ties.
        ``BASE1, offline``: the mean is over the shadows without the example; if there is none, over all.
        ``BASE3``: (µ_in − µ_out)/v · (φ − (µ_in + µ_out)/2), with one variance v for both sides of an example: the likelihood
        ratio of two Gaussians of one variance. An example with too few shadows takes the pooled variance.
    """

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        sides, out_SN = Sides.of(evidence), ~evidence.shadow_member_SN
        return {
            "BASE1, online": base1(sides, np.ones_like(out_SN)),
            "BASE1, offline": base1(sides, out_SN | ~out_SN.any(axis=0)),
            "BASE3": base3(sides),
        }
