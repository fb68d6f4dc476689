"""Evaluation of membership attacks: the figures of all attacks of a run, and of the best one on fresh candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.bound import PrivacyCurve, violates
from privfl.auditing.epsilon import EpsilonBound, chosen_guesses, one_run_audit
from privfl.auditing.roc import (
    Estimate,
    OperatingPoint,
    Roc,
    auc,
    balanced_accuracy,
    best_balanced_accuracy,
    operating_point,
    resolvable,
    roc,
)
from privfl.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Scores = Mapping[str, Mapping[str, FloatArray]]
"""Attack -> variant -> one score per candidate; a higher score means member."""

FPRS: Final = (0.1, 0.05, 0.01, 0.001)
"""The false-positive rates at which a TPR is reported, if the sample resolves them."""

LOW_FPR: Final = 0.01
"""The false-positive rate of the headline, if the sample resolves it."""


def headline_fpr(nonmembers: int) -> float:
    """The false-positive rate of the headline: 1 % if so many non-members resolve it, or else the lowest of ``FPRS`` that they
    resolve; the highest of ``FPRS`` if they resolve none.
    """
    resolved = [fpr for fpr in FPRS if fpr >= LOW_FPR and resolvable(fpr, nonmembers)]
    return min(resolved, default=FPRS[0])


@dataclass(frozen=True)
class VariantFigures:
    """Figures of one variant of one attack, over all candidates.

    Args:
        attack: name of the attack on its shelf.
        variant: name of the variant.
        auc: area under the ROC curve.
        balanced_accuracy: measured on one half of the candidates, at the threshold that is best on the other half.
        best_balanced_accuracy: the largest over all thresholds on all candidates, as papers report it; optimistic.
        operating_points: the TPR at each of ``FPRS``.
        curve: the ROC curve, thinned for a figure; see :meth:`privfl.auditing.roc.Roc.thinned`.
    """

    attack: str
    variant: str
    auc: Estimate
    balanced_accuracy: Estimate
    best_balanced_accuracy: float
    operating_points: tuple[OperatingPoint, ...]
    curve: dict[str, list[float]]


@dataclass(frozen=True)
class BestVariant:
    """The best of several attacks, chosen on one half of the candidates and measured on the other half.

    If there is only one variant, nothing is chosen, and it is measured on all candidates.

    Args:
        attack: name of the chosen attack.
        variant: name of its chosen variant.
        auc: area under the ROC curve; this and all further figures are from the candidates that chose nothing.
        operating_points: the TPR at each of ``FPRS``.
        headline_fpr: the one of ``FPRS`` that stands for all, see :func:`headline_fpr`.
        curve: the ROC curve, thinned for a figure.
        epsilon: the lower bound of the one-run audit.
        contradicts_promise: whether that bound is above the promised ε; None if nothing was promised.
        chosen_on: number of candidates on which the choice was made.
        measured_on: number of candidates from which the figures come.
        members: number of members among these.
    """

    attack: str
    variant: str
    auc: Estimate
    operating_points: tuple[OperatingPoint, ...]
    headline_fpr: float
    curve: dict[str, list[float]]
    epsilon: EpsilonBound
    contradicts_promise: bool | None
    chosen_on: int
    measured_on: int
    members: int

    @property
    def operating_point(self) -> OperatingPoint:
        """The TPR at ``headline_fpr``."""
        return self.operating_points[FPRS.index(self.headline_fpr)]


@dataclass(frozen=True)
class AttackEvaluation:
    """Figures of all attacks of a run, the best attack, and the DP bound on the ROC (None if nothing was promised)."""

    members: int
    nonmembers: int
    variants: tuple[VariantFigures, ...]
    best: BestVariant
    dp_bound: dict[str, list[float]] | None

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as dicts, lists, numbers, strings and None, ready for JSON; equal input gives equal output."""
        return asdict(self)


def evaluate(
    scores: Scores,
    member_N: BoolArray,
    promised: PrivacyCurve | None,
    generator: np.random.Generator,
    level: float = 0.95,
) -> AttackEvaluation:
    """Evaluate every variant of every attack on all candidates, and the best one on the half that did not choose it.

    A violation of the promise is declared at a family-wise error of 1 − level over all variants and operating points.

    Args:
        scores: the scores of the attacks.
        member_N: whether each candidate is a member, drawn by independent fair coins.
        promised: the promised privacy curve for one candidate in or out; None if nothing was promised.
        generator: splits the candidates into halves.
        level: confidence level of every interval and bound.

    Raises:
        DataError: there are no scores, a score is NaN, or a half of the candidates lacks members or non-members.
    """
    chosen_N = _half(len(member_N), generator)
    flat = _flat(scores)
    alpha = (1 - level) / (len(flat) * len(FPRS))
    variants = tuple(
        _variant_figures(attack, variant, scores_N, member_N, chosen_N, promised, level, alpha)
        for (attack, variant), scores_N in flat.items()
    )
    grid = np.geomspace(1e-5, 1, 201)
    members = int(np.count_nonzero(member_N))
    return AttackEvaluation(
        members=members,
        nonmembers=len(member_N) - members,
        variants=variants,
        best=_best(flat, member_N, chosen_N, promised, level),
        dp_bound=None if promised is None else {"fpr": grid.tolist(), "tpr": promised.tpr(grid).tolist()},
    )


def require_both_kinds(member_N: BoolArray, generator: np.random.Generator) -> None:
    """Raise if the candidates do not allow :func:`evaluate`, for any attacks.

    Args:
        member_N: whether each candidate is a member.
        generator: splits the candidates into halves, as for :func:`evaluate`.

    Raises:
        DataError: there are no candidates, or a half of them lacks members or non-members.
    """
    if not len(member_N):
        raise DataError("no candidates, as nothing is held out; raise data.holdout")
    chosen_N = _half(len(member_N), generator)
    for half_N in (member_N[chosen_N], member_N[~chosen_N]):
        if half_N.all() or not half_N.any():
            raise DataError(
                f"{len(member_N)} candidates, of which half have {half_N.sum()} members and {(~half_N).sum()} others: both "
                "kinds are needed in each half; raise data.holdout"
            )


def best_of(
    scores: Scores,
    member_N: BoolArray,
    promised: PrivacyCurve | None,
    generator: np.random.Generator,
    level: float = 0.95,
) -> BestVariant:
    """The best of several attacks, chosen on a random half of the candidates and measured on the other half.

    The choice is by TPR at the :func:`headline_fpr` that the half resolves, then by AUC. The choosing half also chooses the
    number of guesses. A single variant is measured on all candidates, with a fixed number of guesses.

    **Guarantees.** The lower bound on ε is as valid as for an attack named beforehand. Membership of the N candidates is N
    independent fair coins. Conditional on the coins of the choosing half, training is still an (ε, δ)-private function of
    the other half's coins, and these are still independent and fair. The choice depends on the choosing half's coins and on
    the trained model's outputs. So choosing an attack and a number of guesses, and guessing, are together post-processing of
    that private function, and the measuring half is exactly the setting of the one-run audit, with m its own size. The
    halves are drawn independently of membership; halves balanced by membership would make the coins dependent.

    Raises:
        DataError: there are no scores, a score is NaN, or a half of the candidates lacks members or non-members.
    """
    return _best(_flat(scores), member_N, _half(len(member_N), generator), promised, level)


@dataclass(frozen=True)
class BestScores:
    """The best of several attacks, and the candidates that did not choose it.

    Args:
        attack: name of the attack.
        variant: name of its variant.
        scores_N: its scores.
        measured_N: the candidates that did not choose it; all of them if there was nothing to choose.
    """

    attack: str
    variant: str
    scores_N: FloatArray
    measured_N: BoolArray


def best_scores(scores: Scores, member_N: BoolArray, generator: np.random.Generator) -> BestScores:
    """The attack that :func:`evaluate` names as the best.

    Args:
        scores: the scores of the attacks.
        member_N: whether each candidate is a member.
        generator: splits the candidates into halves, as for :func:`evaluate`.
    """
    flat = _flat(scores)
    names, chosen_N = _chosen(flat, member_N, _half(len(member_N), generator))
    return BestScores(*names, flat[names], ~chosen_N)


_Flat = dict[tuple[str, str], FloatArray]


def _flat(scores: Scores) -> _Flat:
    flat = {(attack, variant): scores_N for attack, variants in scores.items() for variant, scores_N in variants.items()}
    if not flat:
        raise DataError("no attack gave any scores; name at least one in attacks.run")
    return flat


def _half(candidates: int, generator: np.random.Generator) -> BoolArray:
    chosen_N = np.zeros(candidates, dtype=bool)
    chosen_N[generator.permutation(candidates)[: candidates // 2]] = True
    return chosen_N


def _best(flat: _Flat, member_N: BoolArray, chosen_N: BoolArray, promised: PrivacyCurve | None, level: float) -> BestVariant:
    names, chosen_N, epsilon = _audited(flat, member_N, chosen_N, 0.0 if promised is None else promised.delta, level)
    scores, truth = flat[names][~chosen_N], member_N[~chosen_N]
    curve, members = roc(scores, truth), int(np.count_nonzero(truth))
    return BestVariant(
        attack=names[0],
        variant=names[1],
        auc=auc(scores, truth, level),
        operating_points=tuple(_point(curve, fpr, promised, level, 1 - level) for fpr in FPRS),
        headline_fpr=headline_fpr(len(truth) - members),
        curve=curve.thinned(level=level),
        epsilon=epsilon,
        contradicts_promise=None if promised is None else epsilon.value > promised.epsilon,
        chosen_on=int(np.count_nonzero(chosen_N)),
        measured_on=len(truth),
        members=members,
    )


def _audited(
    flat: _Flat, member_N: BoolArray, chosen_N: BoolArray, delta: float, level: float
) -> tuple[tuple[str, str], BoolArray, EpsilonBound]:
    """The best variant, the candidates that chose it and the number of guesses, and the bound on ε of the others."""
    names, chosen_N = _chosen(flat, member_N, chosen_N)
    guesses = chosen_guesses(flat[names][chosen_N], member_N[chosen_N], level) if chosen_N.any() else None
    return names, chosen_N, one_run_audit(flat[names][~chosen_N], member_N[~chosen_N], delta, level, guesses)


def _chosen(flat: _Flat, member_N: BoolArray, chosen_N: BoolArray) -> tuple[tuple[str, str], BoolArray]:
    """The best variant, and the candidates that chose it; none if there is only one variant."""
    if len(flat) == 1:
        return next(iter(flat)), np.zeros_like(chosen_N)
    return max(flat, key=lambda name: _merit(flat[name][chosen_N], member_N[chosen_N])), chosen_N


def _merit(scores: FloatArray, truth: BoolArray) -> tuple[float, float]:
    curve = roc(scores, truth)
    fpr, area = headline_fpr(curve.nonmembers), float(np.trapezoid(curve.tpr_T, curve.fpr_T))
    return (float(curve.tpr_T[curve.at(fpr)]) if resolvable(fpr, curve.nonmembers) else 0.0, area)


def _variant_figures(
    attack: str,
    variant: str,
    scores_N: FloatArray,
    member_N: BoolArray,
    chosen_N: BoolArray,
    promised: PrivacyCurve | None,
    level: float,
    alpha: float,
) -> VariantFigures:
    curve = roc(scores_N, member_N)
    return VariantFigures(
        attack=attack,
        variant=variant,
        auc=auc(scores_N, member_N, level),
        balanced_accuracy=balanced_accuracy(scores_N, member_N, chosen_N, level),
        best_balanced_accuracy=best_balanced_accuracy(curve),
        operating_points=tuple(_point(curve, fpr, promised, level, alpha) for fpr in FPRS),
        curve=curve.thinned(level=level),
    )


def _point(curve: Roc, fpr: float, promised: PrivacyCurve | None, level: float, alpha: float) -> OperatingPoint:
    point = operating_point(curve, fpr, level)
    if promised is None:
        return point
    return replace(point, allowed=float(promised.tpr(fpr)), violated=violates(curve, point, promised, alpha))
