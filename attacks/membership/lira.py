"""LiRA: a likelihood ratio per example (Carlini et al. 2022, "Membership inference attacks from first principles")."""

from __future__ import annotations

import numpy as np

from attacks.membership import Evidence, FloatArray
from attacks.membership._sides import Sides, TwoSidedAttack


class Lira(TwoSidedAttack):
    """Does the target's confidence look like that of shadows that trained on the example, or of those that did not?

    The confidence φ is the task's; a classifier's is the stable logit.

    Variants:
        ``online``: log N(φ; µ_in, σ_in²) − log N(φ; µ_out, σ_out²), both per example (algorithm 1).
        ``online, fixed variance``: the same with one σ_in and one σ_out for all examples.
        ``offline``: (φ − µ_out) / σ_out, one-sided: only an output *more* confident than without the example speaks for
        membership (section VI.C).
        ``offline, fixed variance``: the same with one σ_out, that is, the order of φ − µ_out.

    Below 32 shadows a variance per example is unreliable (with 4 of them the online AUC of the reference pool is .512):
    it is computed all the same; read the fixed variance, or RMIA.

    An example with fewer than two shadows on a side takes that side's fixed variance there; one with none takes the
    other side's mean, shifted by the average gap between the sides. If no example has two shadows on a side, the spread
    within examples cannot be known and the spread over all examples stands in. No score is ever NaN.
    """

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        sides = Sides.of(evidence)
        target_N, inside, outside = sides.target_N, sides.inside, sides.outside
        in_N, out_N = sides.means()
        ratio_N = _log_normal(target_N, in_N, inside.variance_N) - _log_normal(target_N, out_N, outside.variance_N)
        fixed_N = _log_normal(target_N, in_N, inside.variance) - _log_normal(target_N, out_N, outside.variance)
        return {
            "online": ratio_N,
            "online, fixed variance": fixed_N,
            "offline": (target_N - out_N) / np.sqrt(outside.variance_N),
            "offline, fixed variance": (target_N - out_N) / np.sqrt(outside.variance),
        }


def _log_normal(value_N: FloatArray, mean_N: FloatArray, variance: FloatArray | float) -> FloatArray:
    """The log-likelihood log N(value; mean, variance), up to the constant −log(2π)/2."""
    return np.asarray(-((value_N - mean_N) ** 2) / (2 * variance) - np.log(variance) / 2)
