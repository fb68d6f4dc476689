"""The ROC curve of a membership attack, its area, and its TPR at low FPRs, with confidence intervals.

Suffixes: N candidates, T thresholds (one per distinct score, and +inf).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from privfl.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

RESOLVABLE: Final = 10
"""Smallest expected number of false positives at which a TPR is reported."""


@dataclass(frozen=True)
class Estimate:
    """An estimate with its two-sided confidence interval, the level of the interval and its method."""

    value: float
    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class Roc:
    """A ROC curve from (0, 0) to (1, 1); equal scores cannot be told apart, so they are one step.

    Args:
        fpr_T: false-positive rates, ascending.
        tpr_T: true-positive rates, ascending.
        thresholds_T: a score of at least this counts as "member"; the first is +inf.
        members: the number of members.
        nonmembers: the number of non-members.
    """

    fpr_T: FloatArray
    tpr_T: FloatArray
    thresholds_T: FloatArray
    members: int
    nonmembers: int

    def at(self, fpr: float) -> int:
        """The index of the lowest threshold whose false-positive rate is at most ``fpr``; no interpolation."""
        return int(np.searchsorted(self.fpr_T, fpr * (1 + 1e-12), side="right")) - 1

    def limits(self, fprs: ArrayLike, level: float = 0.95, draws: int = 200) -> tuple[FloatArray, FloatArray]:
        """Pointwise confidence limits of the TPR at false-positive rates, with an uncertain threshold.

        The threshold of FPR a lies between the K-th and the (K + 1)-th highest non-member, with K ~ Binomial(n₀, a). Given K,
        the number of members above it is binomial. The limits are quantiles of the mixture over K of the two Beta
        distributions whose quantiles are the Clopper–Pearson limits. Members between the two non-members, and ties, widen the
        interval on both sides.

        A Clopper–Pearson interval at the sample's own threshold would take that threshold as known: of nominal 95 % intervals
        of the TPR at an FPR, only 25 to 60 % cover.

        Args:
            fprs: false-positive rates, shape (F,).
            level: confidence level of each pair of limits.
            draws: number of values of K, at evenly spaced quantiles of its distribution.

        Returns:
            low and high, each of shape (F,).
        """
        fpr_F1 = np.atleast_1d(np.asarray(fprs, dtype=np.float64))[:, None]
        positives_T, negatives_T = np.rint(self.tpr_T * self.members), np.rint(self.fpr_T * self.nonmembers)
        k_FM = stats.binom.ppf((np.arange(draws) + 0.5) / draws, self.nonmembers, fpr_F1)
        at_FM = np.searchsorted(negatives_T, k_FM, side="left")
        last_FM = np.searchsorted(negatives_T, k_FM, side="right") - 1
        fewest_FM = positives_T[np.minimum(at_FM, last_FM)]
        most_FM = positives_T[np.maximum(at_FM, last_FM)]
        tail = (1 - level) / 2
        low_F = _mixture_quantile(fewest_FM, self.members - fewest_FM + 1, tail)
        high_F = _mixture_quantile(most_FM + 1, self.members - most_FM, 1 - tail)
        return low_F, high_F

    def thinned(self, points: int = 200, level: float = 0.95) -> dict[str, list[float]]:
        """About ``points`` points of the curve for a log-log figure: ``fpr``, ``tpr`` and its :meth:`limits`.

        Each point is that of the lowest threshold for an FPR of a grid, which is even on a logarithmic scale.
        """
        grid = np.geomspace(1 / self.nonmembers, 1, points)
        index = np.unique(np.searchsorted(self.fpr_T, grid * (1 + 1e-12), side="right") - 1)
        tpr = self.tpr_T[index]
        low, high = self.limits(self.fpr_T[index], level, draws=20)
        return {"fpr": self.fpr_T[index].tolist(), "tpr": tpr.tolist(), "low": low.tolist(), "high": high.tolist()}


def roc(scores_N: FloatArray, member_N: BoolArray) -> Roc:
    """The ROC curve of scores; a higher score means member.

    Raises:
        DataError: a score is NaN, or there is no member, or no non-member.
    """
    member_N = _checked(scores_N, member_N)
    order = np.argsort(-scores_N, kind="stable")
    descending = scores_N[order]
    # Compare neighbours instead of subtracting them: ∞ − ∞ is NaN, which would count as a step.
    last_of_tie = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(descending) - 1)
    true_positives = np.cumsum(member_N[order])[last_of_tie]
    false_positives = last_of_tie + 1 - true_positives
    members = int(member_N.sum())
    nonmembers = len(member_N) - members
    return Roc(
        fpr_T=np.append(0.0, false_positives / nonmembers),
        tpr_T=np.append(0.0, true_positives / members),
        thresholds_T=np.append(np.inf, descending[last_of_tie]),
        members=members,
        nonmembers=nonmembers,
    )


def _mixture_quantile(a_FM: FloatArray, b_FM: FloatArray, share: float) -> FloatArray:
    """Quantiles of F mixtures, each in equal parts of M Beta(a, b) distributions, by bisection.

    A Beta with a = 0 is a point at 0, one with b = 0 a point at 1.
    """
    low_F, high_F = np.zeros(len(a_FM)), np.ones(len(a_FM))
    safe_a, safe_b = np.maximum(a_FM, 1e-9), np.maximum(b_FM, 1e-9)
    for _ in range(30):
        middle_F = (low_F + high_F) / 2
        below_FM = special.betainc(safe_a, safe_b, middle_F[:, None])
        below_F = np.where(a_FM == 0, 1.0, np.where(b_FM == 0, 0.0, below_FM)).mean(axis=1)
        low_F, high_F = np.where(below_F < share, middle_F, low_F), np.where(below_F < share, high_F, middle_F)
    # Snap to an end, which bisection approaches but never reaches.
    return np.where(high_F < 1e-8, 0.0, np.where(low_F > 1 - 1e-8, 1.0, (low_F + high_F) / 2))


def clopper_pearson(successes: Any, trials: Any, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """The exact two-sided confidence interval of a binomial proportion (Clopper & Pearson 1934); arrays broadcast.

    Each limit alone is a one-sided bound of level (1 + level) / 2.
    """
    k, n = np.broadcast_arrays(np.asarray(successes, dtype=float), np.asarray(trials, dtype=float))
    tail = (1 - level) / 2
    low = np.where(k == 0, 0.0, special.betaincinv(np.maximum(k, 1), n - k + 1, tail))
    high = np.where(k == n, 1.0, special.betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail))
    return low, high


def auc(scores_N: FloatArray, member_N: BoolArray, level: float = 0.95) -> Estimate:
    """Area under the ROC curve: P[a member's score > a non-member's] + P[equal] / 2, by midranks.

    The interval is that of DeLong, DeLong & Clarke-Pearson 1988 (in the rank form of Sun & Xu 2014) on the logit scale,
    which keeps it in [0, 1]. Its variance is zero for perfectly separated or all equal scores, and undefined for one member,
    so it would claim certainty. Members and non-members are then taken as min(n₁, n₀) disjoint pairs, whose wins are
    binomial, with a Clopper–Pearson interval, which is valid at any sample size, and wide.

    Raises:
        DataError: a score is NaN, or there is no member, or no non-member.
    """
    member_N = _checked(scores_N, member_N)
    ranks_N = stats.rankdata(scores_N)
    inside, outside = scores_N[member_N], scores_N[~member_N]
    # Share of non-members below each member, and share of members above each non-member.
    below = (ranks_N[member_N] - stats.rankdata(inside)) / len(outside)
    above = 1 - (ranks_N[~member_N] - stats.rankdata(outside)) / len(inside)
    value = float(below.mean())
    pairs = min(len(inside), len(outside))
    variance = below.var(ddof=1) / len(inside) + above.var(ddof=1) / len(outside) if pairs > 1 else 0.0
    if variance == 0 or not 0 < value < 1:
        low, _ = clopper_pearson(math.floor(value * pairs), pairs, level)
        _, high = clopper_pearson(math.ceil(value * pairs), pairs, level)
        return Estimate(value, float(low), float(high), level, "Clopper–Pearson on disjoint pairs")
    spread = float(special.ndtri((1 + level) / 2) * math.sqrt(variance) / (value * (1 - value)))
    centre = float(special.logit(value))
    return Estimate(
        value, float(special.expit(centre - spread)), float(special.expit(centre + spread)), level, "DeLong on the logit scale"
    )


@dataclass(frozen=True)
class OperatingPoint:
    """The TPR of an attack at a false-positive rate, or the reason why there is none.

    Args:
        fpr: the false-positive rate asked for; that of the sample's threshold is at most this.
        tpr: the TPR; None if the sample cannot resolve ``fpr``.
        reason: the reason if ``tpr`` is None.
        allowed: the largest TPR that the promised privacy curve allows at ``fpr``; None if nothing was promised.
        violated: whether the attack exceeded it, see :func:`privfl.auditing.bound.violates`.
    """

    fpr: float
    tpr: Estimate | None
    reason: str | None = None
    allowed: float | None = None
    violated: bool | None = None


def resolvable(fpr: float, nonmembers: int) -> bool:
    """Whether at least ``RESOLVABLE`` false positives are expected among so many non-members."""
    return fpr * nonmembers >= RESOLVABLE * (1 - 1e-12)


def operating_point(curve: Roc, fpr: float, level: float = 0.95) -> OperatingPoint:
    """The TPR at a false-positive rate, with the interval of :meth:`Roc.limits`.

    The interval is about the false-positive rate asked for, not about the sample's own threshold. Below ``RESOLVABLE``
    expected false positives the threshold is too uncertain, and no TPR is given.
    """
    if not resolvable(fpr, curve.nonmembers):
        reason = f"not resolvable: {curve.nonmembers} non-members, {math.ceil(RESOLVABLE / fpr)} needed"
        return OperatingPoint(fpr, None, reason)
    value = float(curve.tpr_T[curve.at(fpr)])
    low_1, high_1 = curve.limits(fpr, level)
    return OperatingPoint(fpr, Estimate(value, float(low_1[0]), float(high_1[0]), level, "binomial threshold, Beta TPR"))


def best_threshold(curve: Roc) -> float:
    """The threshold that maximises TPR − FPR; of equal ones the highest."""
    positives_T, negatives_T = np.rint(curve.tpr_T * curve.members), np.rint(curve.fpr_T * curve.nonmembers)
    # Whole numbers: the rounding of a difference of two shares would decide between thresholds that are equally good.
    return float(curve.thresholds_T[np.argmax(positives_T * curve.nonmembers - negatives_T * curve.members)])


def best_balanced_accuracy(curve: Roc) -> float:
    """Largest balanced accuracy, (TPR + TNR) / 2, over all thresholds on these same candidates.

    Papers report this figure, so a comparison with them needs it. It is optimistic: on pure noise it is above one half.
    """
    return float((1 + (curve.tpr_T - curve.fpr_T).max()) / 2)


def balanced_accuracy(scores_N: FloatArray, member_N: BoolArray, chosen_N: BoolArray, level: float = 0.95) -> Estimate:
    """Balanced accuracy, (TPR + TNR) / 2, on half of the candidates, at the threshold that is best on the other half.

    No candidate counts on which the threshold was tuned, so on pure noise the figure is one half on average. The interval
    combines the Clopper–Pearson limits of TPR and TNR (Zou & Donner 2008, MOVER).

    Args:
        scores_N: scores of the candidates; higher means member.
        member_N: whether each candidate is a member.
        chosen_N: the half on which the threshold is chosen.
        level: confidence level of the interval.

    Raises:
        DataError: a score is NaN, or a half lacks members or non-members.
    """
    threshold = best_threshold(roc(scores_N[chosen_N], member_N[chosen_N]))
    measured, truth = scores_N[~chosen_N], _checked(scores_N[~chosen_N], member_N[~chosen_N])
    correct = (measured >= threshold) == truth
    trials = np.array([truth.sum(), (~truth).sum()])
    successes = np.array([correct[truth].sum(), correct[~truth].sum()])
    rates = successes / trials
    low, high = clopper_pearson(successes, trials, level)
    value = float(rates.mean())
    return Estimate(
        value=value,
        low=value - float(np.linalg.norm(rates - low)) / 2,
        high=value + float(np.linalg.norm(high - rates)) / 2,
        level=level,
        method="Clopper–Pearson limits, MOVER; threshold from the other half",
    )


def _checked(scores_N: FloatArray, member_N: BoolArray) -> BoolArray:
    member_N = np.asarray(member_N, dtype=bool)
    if scores_N.shape != member_N.shape or scores_N.ndim != 1:
        raise DataError(
            f"scores of shape {scores_N.shape} for members of shape {member_N.shape}: must both be (N,); give one per candidate"
        )
    if np.isnan(scores_N).any():
        raise DataError(
            f"{np.isnan(scores_N).sum()} of {len(scores_N)} scores are NaN: must be numbers; check whether the model diverged"
        )
    if member_N.all() or not member_N.any():
        raise DataError(
            f"{member_N.sum()} members among {len(member_N)} candidates: must be both members and others; raise data.holdout"
        )
    return member_N
