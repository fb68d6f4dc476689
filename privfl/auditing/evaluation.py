"""Every attack of a run on one page of figures, and the best of them, chosen honestly."""

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
    roc,
)
from privfl.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Scores = Mapping[str, Mapping[str, FloatArray]]
"""Attack -> variant -> one score per candidate, higher means member."""

FPRS: Final = (1e-2, 1e-3, 1e-4)
"""The false-positive rates at which a TPR is reported."""


@dataclass(frozen=True)
class Leakage:
    """What one variant of one attack learned, over all candidates.

    Args:
        attack: its name on the shelf.
        variant: one of its variants.
        auc: area under the ROC.
        balanced_accuracy: at a threshold chosen on the other half.
        best_balanced_accuracy: at the best threshold for these same candidates, as papers print it; optimistic.
        operating_points: the TPR at each of ``FPRS``.
        curve: the ROC thinned for a figure, see :meth:`privfl.auditing.roc.Roc.thinned`.
    """

    attack: str
    variant: str
    auc: Estimate
    balanced_accuracy: Estimate
    best_balanced_accuracy: float
    operating_points: tuple[OperatingPoint, ...]
    curve: dict[str, list[float]]


@dataclass(frozen=True)
class Best:
    """The best of several attacks: chosen on one half of the candidates, measured on the other half.

    Where there is but one variant nothing is chosen, and it is measured on all.

    Args:
        attack: the chosen attack.
        variant: the chosen variant of it.
        auc: on the candidates that chose nothing, like all that follows.
        operating_point: TPR at 1 % FPR.
        epsilon: the one-run lower bound.
        contradicts_promise: whether that bound is above the ε that was promised; None where nothing was promised.
        chosen_on: how many candidates the choice was made on.
        measured_on: how many the figures come from.
        members: how many of these were members.
    """

    attack: str
    variant: str
    auc: Estimate
    operating_point: OperatingPoint
    epsilon: EpsilonBound
    contradicts_promise: bool | None
    chosen_on: int
    measured_on: int
    members: int


@dataclass(frozen=True)
class Evaluation:
    """All attacks of a run, the best of them, and the DP bound along the ROC (None where nothing was promised)."""

    members: int
    nonmembers: int
    leakages: tuple[Leakage, ...]
    best: Best
    dp_bound: dict[str, list[float]] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, floats, strings and None, ready for JSON; equal input gives equal output."""
        return asdict(self)


def evaluate(
    scores: Scores,
    member_N: BoolArray,
    promised: PrivacyCurve | None,
    generator: np.random.Generator,
    level: float = 0.95,
) -> Evaluation:
    """Every variant of every attack on all candidates, and the best of them on the half that did not choose it.

    A violation of the promise is declared at a family-wise error of 1 − level over all variants and operating points.

    Args:
        scores: what the attacks returned.
        member_N: the truth, drawn by independent fair coins.
        promised: the privacy curve of one candidate in or out; None where nothing was promised.
        generator: splits the candidates into halves.
        level: of every interval and bound.

    Raises:
        DataError: no scores, a score is NaN, or too few candidates for halves with both kinds in each.
    """
    chosen_N = _half(len(member_N), generator)
    flat = _flat(scores)
    alpha = (1 - level) / (len(flat) * len(FPRS))
    leakages = tuple(
        _leakage(attack, variant, scores_N, member_N, chosen_N, promised, level, alpha)
        for (attack, variant), scores_N in flat.items()
    )
    grid = np.geomspace(1e-5, 1, 201)
    members = int(np.count_nonzero(member_N))
    return Evaluation(
        members=members,
        nonmembers=len(member_N) - members,
        leakages=leakages,
        best=_best(flat, member_N, chosen_N, promised, level),
        dp_bound=None if promised is None else {"fpr": grid.tolist(), "tpr": promised.tpr(grid).tolist()},
    )


def require_both_kinds(member_N: BoolArray, generator: np.random.Generator) -> None:
    """Refuse candidates that :func:`evaluate` could do nothing with, whatever the attacks.

    Args:
        member_N: the truth.
        generator: splits the candidates into halves, as for :func:`evaluate`.

    Raises:
        DataError: a half is without members, or without others.
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
) -> Best:
    """The best of several attacks, chosen on a random half of the candidates and measured on the other half.

    The choice is by TPR at 1 % FPR where the half resolves it, then by AUC. Where there is but one, it is measured on all. The
    choosing half chooses the number of guesses too; where nothing is chosen it is fixed.

    **Guarantees.** Membership of the N candidates is N independent fair coins. Conditional on the coins of the
    choosing half, training is still an (ε, δ)-private function of the other half's coins, and these are still
    independent and fair. The choice reads the choosing half's coins and the trained model's outputs, so choosing (an
    attack, how many are guessed) and guessing together are post-processing of that private function: the measuring
    half is exactly the setting of the one-run audit, with m its own size, and the bound is as valid as for an attack
    named beforehand. The halves are drawn without regard to membership; halves balanced by it would make the coins
    dependent.

    Raises:
        DataError: no scores, a score is NaN, or too few candidates for halves with both kinds in each.
    """
    return _best(_flat(scores), member_N, _half(len(member_N), generator), promised, level)


@dataclass(frozen=True)
class GroupLeakage:
    """What the best attack found in one group.

    Args:
        group: its number or word.
        members: its members among the candidates that are measured.
        nonmembers: the others.
        auc: with an interval that holds for all groups together; None if there are not both kinds.
    """

    group: Any
    members: int
    nonmembers: int
    auc: Estimate | None


def by_group(
    scores: Scores, member_N: BoolArray, group_N: NDArray[Any], generator: np.random.Generator, level: float = 0.95
) -> tuple[GroupLeakage, ...]:
    """The AUC of the best attack in each group of candidates, on those that did not choose it.

    The intervals are those of Bonferroni: all of them hold at the same time with a probability of at least ``level``.

    Args:
        scores: what the attacks returned.
        member_N: the truth, drawn by independent fair coins.
        group_N: the group of each candidate.
        generator: splits the candidates into halves, as for :func:`evaluate`.
        level: of all intervals together.
    """
    flat, chosen_N = _flat(scores), _half(len(member_N), generator)
    name, chosen_N = _chosen(flat, member_N, chosen_N)
    groups = np.unique(group_N)
    found = []
    for group in groups:
        here_N = (group_N == group) & ~chosen_N
        members = int(np.count_nonzero(member_N[here_N]))
        others = int(np.count_nonzero(here_N)) - members
        area = auc(flat[name][here_N], member_N[here_N], 1 - (1 - level) / len(groups)) if members and others else None
        found.append(GroupLeakage(group.item(), members, others, area))
    return tuple(found)


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


def _best(flat: _Flat, member_N: BoolArray, chosen_N: BoolArray, promised: PrivacyCurve | None, level: float) -> Best:
    names, chosen_N = _chosen(flat, member_N, chosen_N)
    guesses = chosen_guesses(flat[names][chosen_N], member_N[chosen_N], level) if chosen_N.any() else None
    scores, truth = flat[names][~chosen_N], member_N[~chosen_N]
    delta = 0.0 if promised is None else promised.delta
    epsilon = one_run_audit(scores, truth, delta, level, guesses)
    return Best(
        attack=names[0],
        variant=names[1],
        auc=auc(scores, truth, level),
        operating_point=_point(roc(scores, truth), FPRS[0], promised, level, 1 - level),
        epsilon=epsilon,
        contradicts_promise=None if promised is None else epsilon.value > promised.epsilon,
        chosen_on=int(np.count_nonzero(chosen_N)),
        measured_on=len(truth),
        members=int(np.count_nonzero(truth)),
    )


def _chosen(flat: _Flat, member_N: BoolArray, chosen_N: BoolArray) -> tuple[tuple[str, str], BoolArray]:
    """The best variant, and the candidates that chose it: nobody, if there is but one."""
    if len(flat) == 1:
        return next(iter(flat)), np.zeros_like(chosen_N)
    return max(flat, key=lambda name: _merit(flat[name][chosen_N], member_N[chosen_N])), chosen_N


def _merit(scores: FloatArray, truth: BoolArray) -> tuple[float, float]:
    point = operating_point(roc(scores, truth), FPRS[0])
    return (0.0 if point.tpr is None else point.tpr.value, auc(scores, truth).value)


def _leakage(
    attack: str,
    variant: str,
    scores_N: FloatArray,
    member_N: BoolArray,
    chosen_N: BoolArray,
    promised: PrivacyCurve | None,
    level: float,
    alpha: float,
) -> Leakage:
    curve = roc(scores_N, member_N)
    return Leakage(
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
