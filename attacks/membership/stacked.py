"""A classifier over the scores of other attacks, learned from the shadow models (arXiv 2604.12737)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy import stats
from sklearn.linear_model import LogisticRegression

from attacks.membership import BoolArray, Evidence, FloatArray
from attacks.membership._joint import joint_ratio
from attacks.membership._scores import base1, base3, bavaria_t
from attacks.membership._sides import Side, Sides, TwoSidedAttack, settled_order, surprise


class Stacked(TwoSidedAttack):
    """Logistic regression on six scores: the loss, Watson, BASE1, BASE3, BaVarIA-t and the joint prior.

    Each shadow model in turn is the pseudo-target: the others are its shadows, and its own coins are the labels. The target's
    coins are never used. A score is replaced by its normal quantile among all candidates of the same model, so that targets and
    pseudo-targets are on one scale and no outlier decides.

    The coins of all shadows together are even for every candidate, so that the others' coins would give the pseudo-target's
    away. Each candidate therefore counts the same number of other shadows on both sides, picked at random.

    Args:
        pseudo_targets: how many shadows are pseudo-targets at most.
    """

    least_shadows: ClassVar[int] = 4

    pseudo_targets: Annotated[int, Field(ge=1)] = 16

    by_signals: ClassVar[bool] = False

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        signals = evidence.signals
        order = settled_order(signals.shadow_SN)
        shadow_SN, member_SN = signals.shadow_SN[order], evidence.shadow_member_SN[order]
        generator = np.random.default_rng(0)
        features, coins = list[FloatArray](), list[BoolArray]()
        for place in range(min(self.pseudo_targets, len(shadow_SN))):
            others = np.arange(len(shadow_SN)) != place
            features.append(_features(*_even_sides(shadow_SN[place], shadow_SN[others], member_SN[others], generator)))
            coins.append(member_SN[place])
        target_NF = _features(Sides.of(evidence), np.ones_like(member_SN))
        labels = np.concatenate(coins)
        classifier = LogisticRegression(max_iter=1000).fit(np.concatenate(features), labels)
        return {"stacked": np.asarray(classifier.decision_function(target_NF), dtype=np.float64)}


def _even_sides(
    target_N: FloatArray, shadow_SN: FloatArray, member_SN: BoolArray, generator: np.random.Generator
) -> tuple[Sides, BoolArray]:
    """The sides of a pseudo-target with as many shadows on both, for each example, and which shadows these are."""
    most = (len(shadow_SN) - 1) // 2
    key_SN = generator.random(member_SN.shape)
    in_SN, out_SN = (_first(key_SN, side_SN, most) for side_SN in (member_SN, ~member_SN))
    return Sides(target_N, shadow_SN, Side.of(shadow_SN, in_SN), Side.of(shadow_SN, out_SN)), in_SN | out_SN


def _first(key_SN: FloatArray, side_SN: BoolArray, most: int) -> BoolArray:
    """At most so many of the shadows on a side of each example: those with the lowest keys."""
    rank_SN = np.where(side_SN, key_SN, np.inf).argsort(axis=0).argsort(axis=0)
    return side_SN & (rank_SN < most)


def _features(sides: Sides, taken_SN: BoolArray) -> FloatArray:
    """Normal quantiles of six scores, of shape (N, 6)."""
    scores = (
        -surprise(sides.target_N),
        sides.target_N - sides.means()[1],
        base1(sides, taken_SN | ~taken_SN.any(axis=0)),
        base3(sides),
        bavaria_t(sides),
        joint_ratio(sides),
    )
    return np.stack([stats.norm.ppf((stats.rankdata(one) - 0.5) / len(one)) for one in scores], axis=1)
