"""BaVarIA: a likelihood ratio with a Bayesian estimate of each example's variance (Brännvall 2026, arXiv 2603.11799)."""

from __future__ import annotations

from attacks.membership import Evidence, FloatArray
from attacks.membership._scores import Posterior, bavaria_t, normal
from attacks.membership._sides import Sides, TwoSidedAttack


class Bavaria(TwoSidedAttack):
    """LiRA with a normal-inverse-gamma prior on mean and variance of each side, fitted to that side over all examples.

    With few shadows it is far better than LiRA's variance per example, and with many it becomes it.

    Variants, each ``online`` or ``offline``; offline the side of the members is its prior alone:
        ``n``: the ratio of two normals with the posterior's variance and the sample's own mean (κ₀ = α₀ = 1).
        ``t``: the ratio of the posterior predictives, two Student t distributions (κ₀ = 1, α₀ = 2).
    """

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        sides = Sides.of(evidence)
        target_N = sides.target_N
        inside, outside = Posterior.of(sides.inside, shape=1.0), Posterior.of(sides.outside, shape=1.0)
        prior_N = normal(target_N, sides.inside.mean, sides.inside.spread)
        return {
            "n, online": inside.normal(target_N) - outside.normal(target_N),
            "t, online": bavaria_t(sides),
            "n, offline": prior_N - outside.normal(target_N),
            "t, offline": bavaria_t(sides, offline=True),
        }
