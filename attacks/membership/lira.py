"""LiRA: a likelihood ratio per example (Carlini et al. 2022, "Membership inference attacks from first principles")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attacks.membership import BoolArray, Evidence, FloatArray, MembershipAttack
from privfl.errors import ConfigError


class Lira(MembershipAttack):
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

    threat: ClassVar[str] = "Whoever has the final model and can train others like it wants to know who was trained on."

    least_shadows: ClassVar[int] = 1

    def require_shadows(self, member_SN: BoolArray) -> None:
        """See :class:`attacks.membership.MembershipAttack`: without both sides there is nothing to compare."""
        super().require_shadows(member_SN)
        if member_SN.all() or not member_SN.any():
            raise ConfigError("attacks.shadow_models: no candidate is left out of, or in, any shadow; raise it or data.holdout")

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        target_N = evidence.task.confidence(evidence.logits_NC, evidence.labels_N)
        shadow_SN = evidence.task.confidence(evidence.shadow_logits_SNC, evidence.labels_N)
        inside = _side(shadow_SN, evidence.shadow_member_SN)
        outside = _side(shadow_SN, ~evidence.shadow_member_SN)
        gap = inside.mean - outside.mean
        in_N = np.where(inside.count_N > 0, inside.mean_N, outside.mean_N + gap)
        out_N = np.where(outside.count_N > 0, outside.mean_N, inside.mean_N - gap)
        ratio_N = _log_normal(target_N, in_N, inside.variance_N) - _log_normal(target_N, out_N, outside.variance_N)
        fixed_N = _log_normal(target_N, in_N, inside.variance) - _log_normal(target_N, out_N, outside.variance)
        return {
            "online": ratio_N,
            "online, fixed variance": fixed_N,
            "offline": (target_N - out_N) / np.sqrt(outside.variance_N),
            "offline, fixed variance": (target_N - out_N) / np.sqrt(outside.variance),
        }


_TINY = 1e-30  # keeps a likelihood finite where shadows agree exactly; far below any spread that training leaves


@dataclass(frozen=True)
class _Side:
    """Stable logits of the shadows that did, or did not, train on each example: per example, and pooled."""

    count_N: FloatArray
    mean_N: FloatArray
    variance_N: FloatArray
    mean: float
    variance: float


def _side(shadow_SN: FloatArray, taken_SN: BoolArray) -> _Side:
    count_N = taken_SN.sum(axis=0).astype(np.float64)
    mean_N = np.where(taken_SN, shadow_SN, 0.0).sum(axis=0) / np.maximum(count_N, 1)
    squares_N = np.where(taken_SN, (shadow_SN - mean_N) ** 2, 0.0).sum(axis=0)
    everything = shadow_SN[taken_SN]
    # The fixed variance is the pooled spread *within* examples; the spread of all logits would add that between examples.
    freedom = np.maximum(count_N - 1, 0).sum()
    pooled = squares_N.sum() / freedom if freedom > 0 else everything.var()
    own_N = squares_N / np.maximum(count_N - 1, 1)
    return _Side(
        count_N=count_N,
        mean_N=mean_N,
        variance_N=np.where(count_N > 1, own_N, pooled) + _TINY,
        mean=float(everything.mean()),
        variance=float(pooled) + _TINY,
    )


def _log_normal(value_N: FloatArray, mean_N: FloatArray, variance: FloatArray | float) -> FloatArray:
    """The log-likelihood log N(value; mean, variance), up to the constant −log(2π)/2."""
    return np.asarray(-((value_N - mean_N) ** 2) / (2 * variance) - np.log(variance) / 2)
