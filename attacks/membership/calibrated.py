"""LiRA's score in deviations of the example's own, if nobody trained on it: one threshold is one FPR (arXiv 2605.25819)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attacks.membership import MOST_PSEUDO_TARGETS, BoolArray, Evidence, FloatArray
from attacks.membership._scores import normal
from attacks.membership._sides import TINY, Side, Sides, TwoSidedAttack
from privfl.auditing.false_positives import FalsePositives
from privfl.auditing.questions.membership import MembershipClaim


class Calibrated(TwoSidedAttack):
    """How unusual is the example's score among those that it gets from models which were not trained on it?

    Each shadow model in turn plays the target, with the others as its shadows, and an example's score s is LiRA's log-ratio
    with one variance for each side. The score here is (s − mean)/deviation, with the mean and the deviation of s in the
    models that were not trained on the example. A threshold that is one for all examples then accuses each of them about
    equally often, which s does not. The z of a log-ratio with variances per example would be that of a square, and finds
    little; that of the confidence φ itself is LiRA offline.

    Variants:
        ``LiRA, fixed variance``: as above.
    """

    least_shadows: ClassVar[int] = 4

    by_signals: ClassVar[bool] = False

    def claim(self, evidence: Evidence) -> MembershipClaim:
        """See :class:`attacks.membership.MembershipAttack`: no shadow's own score is in the mean that it is compared with."""
        self.require_shadows(evidence.shadow_member_SN)
        shadow_SN, member_SN = evidence.signals.shadow_SN, evidence.shadow_member_SN
        sides = Sides.of(evidence)
        target_N = _ratio(sides.target_N, *sides.means(), sides.inside.variance, sides.outside.variance)
        played_MN, out_MN = played(shadow_SN, member_SN), ~member_SN[:MOST_PSEUDO_TARGETS]
        side = Side.of(played_MN, out_MN)
        mean_N = np.where(side.count_N > 0, side.mean_N, side.mean)
        scores = {"LiRA, fixed variance": (target_N - mean_N) / np.sqrt(side.variance_N)}
        counted = {name: FalsePositives.of(_left_out(played_MN, side), out_MN) for name in scores}
        return MembershipClaim(scores, counted)

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        return dict(self.claim(evidence).scores)


def played(shadow_SN: FloatArray, member_SN: BoolArray) -> FloatArray:
    """The log-ratio of each shadow as the target, beside the others, of shape (M, N): from sums, with no loop over shadows."""
    inside, outside = (_WithoutEach.of(shadow_SN, taken_SN) for taken_SN in (member_SN, ~member_SN))
    gap_M1 = inside.overall_M1 - outside.overall_M1
    in_MN = np.where(inside.count_MN > 0, inside.mean_MN, outside.mean_MN + gap_M1)
    out_MN = np.where(outside.count_MN > 0, outside.mean_MN, inside.mean_MN - gap_M1)
    return _ratio(shadow_SN[:MOST_PSEUDO_TARGETS], in_MN, out_MN, inside.variance_M1, outside.variance_M1)


@dataclass(frozen=True)
class _WithoutEach:
    """One side of each example without each of the first M shadows; see :class:`attacks.membership._sides.Side`."""

    count_MN: FloatArray
    mean_MN: FloatArray
    variance_M1: FloatArray
    overall_M1: FloatArray

    @classmethod
    def of(cls, shadow_SN: FloatArray, taken_SN: BoolArray) -> _WithoutEach:
        side, taken_MN = Side.of(shadow_SN, taken_SN), taken_SN[:MOST_PSEUDO_TARGETS]
        signal_MN = shadow_SN[:MOST_PSEUDO_TARGETS]
        count_MN = side.count_N - taken_MN
        mean_N, squares_N = _without_one(np.where(taken_MN, signal_MN - side.mean_N, 0.0), side)
        freedom_M = np.maximum(count_MN - 1, 0).sum(axis=1)
        pooled_M = (side.squares_N - squares_N).sum(axis=1) / np.maximum(freedom_M, 1)
        overall_M = (side.mean_N * side.count_N).sum() - np.where(taken_MN, signal_MN, 0.0).sum(axis=1)
        return cls(
            count_MN,
            side.mean_N - mean_N,
            np.where(freedom_M > 0, pooled_M + TINY, side.spread)[:, None],
            (overall_M / np.maximum(count_MN.sum(axis=1), 1))[:, None],
        )


def _without_one(away_MN: FloatArray, side: Side) -> tuple[FloatArray, FloatArray]:
    """The amounts by which mean and Σ (φ − mean)² of n values fall without one of them that is ``away`` from the mean."""
    # mean' = mean − away/(n − 1),  SS' = SS − away² n/(n − 1)
    others_N = np.maximum(side.count_N - 1, 1)
    return away_MN / others_N, away_MN**2 * side.count_N / others_N


def _left_out(played_MN: FloatArray, side: Side) -> FloatArray:
    """Each score of a model that was not trained on the example, in deviations of the other models' scores."""
    mean_MN, squares_MN = _without_one(played_MN - side.mean_N, side)
    own_MN = np.maximum(side.squares_N - squares_MN, 0.0) / np.maximum(side.count_N - 2, 1)
    variance_MN = np.where(side.count_N > 2, own_MN + TINY, side.variance)
    mean_MN = np.where(side.count_N > 1, side.mean_N - mean_MN, side.mean)
    return np.asarray((played_MN - mean_MN) / np.sqrt(variance_MN))


def _ratio(
    value: FloatArray,
    inside: FloatArray,
    outside: FloatArray,
    in_variance: FloatArray | float,
    out_variance: FloatArray | float,
) -> FloatArray:
    return normal(value, inside, in_variance) - normal(value, outside, out_variance)
