"""Lower bounds on ε: if an attack gets this much right, the mechanism cannot be (ε, δ)-private for a smaller ε.

**Guarantees.** Each bound exceeds the true ε with a probability of at most 1 − level, provided that what it is computed
from was fixed without looking at the candidates that it counts. The maximum over thresholds, numbers of guesses or
attacks on the same candidates is not such a figure: it is above the true ε in up to 39 % of runs for a claimed 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from privfl.auditing.roc import Roc, clopper_pearson, roc
from privfl.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

SHARE: Final = 0.1
"""The share of the candidates that the one-run audit guesses to be members, fixed beforehand."""

SHARES: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
"""What :func:`chosen_guesses` chooses from, for members and for others; one half of each is a guess about everybody."""


@dataclass(frozen=True)
class EpsilonBound:
    """ε is at least ``value``, at that confidence level.

    Args:
        value: at least 0; 0 says nothing, for every mechanism has ε ≥ 0.
        level: of the one-sided bound.
        delta: the δ for which it holds.
        method: how it was computed.
        guesses: how many candidates were guessed.
        correct: how many of them rightly.
        candidates: out of how many whose membership was a fair coin.
        ceiling: the bound if every guess had been right. No larger ε could have been refuted, whatever the mechanism leaks.
    """

    value: float
    level: float
    delta: float
    method: str
    guesses: int
    correct: int
    candidates: int
    ceiling: float


def one_run_epsilon(correct: int, guesses: int, candidates: int, delta: float = 0.0, level: float = 0.95) -> float:
    """The ε that one training run with many independent coins refutes (Steinke, Nasr & Jagielski 2023, theorem 5.2).

    For δ = 0 the number of right guesses is stochastically at most Binomial(r, e^ε / (1 + e^ε)), and the bound has the
    closed form logit(BetaPPF(1 − level; v, r − v + 1)). For δ > 0 it is the ε at which :func:`_p_value` is 1 − level.

    Args:
        correct: v, the guesses that are right.
        guesses: r, of a number fixed beforehand or chosen on other candidates; members or non-members, the rest abstained.
        candidates: m, the examples that were included by independent fair coins, guessed or not.
        delta: δ.
        level: of the one-sided bound.
    """
    if not 0 <= correct <= guesses <= candidates:
        raise DataError(f"{correct} correct of {guesses} guesses on {candidates} candidates; each must be at most the next")
    if correct == 0:
        return 0.0
    closed_form = float(special.logit(special.betaincinv(correct, guesses - correct + 1, 1 - level)))
    if delta == 0 or closed_form <= 0:
        return max(0.0, closed_form)
    low, high = 0.0, closed_form
    for _ in range(50):
        middle = (low + high) / 2
        if _p_value(middle, correct, guesses, candidates, delta) < 1 - level:
            low = middle
        else:
            high = middle
    return low


def _p_value(epsilon: float, correct: int, guesses: int, candidates: int, delta: float) -> float:
    """P[at least v right] under (ε, δ), at most β + 2mδ·max_i P[v − i ≤ V < v] / i, with V ~ Binomial(r, e^ε/(1+e^ε))."""
    chance = special.expit(epsilon)
    beta = special.betainc(correct, guesses - correct + 1, chance)
    back = np.arange(1, correct + 1)
    below = correct - back
    log_choose = -special.betaln(guesses - below + 1, below + 1) - np.log1p(guesses)
    mass = np.exp(log_choose + below * np.log(chance) + (guesses - below) * special.log_expit(-epsilon))
    return float(min(1.0, beta + 2 * candidates * delta * (np.cumsum(mass) / back).max()))


@dataclass(frozen=True)
class Guesses:
    """How much of the candidates is guessed: this share with the highest scores as members, that with the lowest as others."""

    members: float = SHARE
    others: float = 0.0


def chosen_guesses(scores_N: FloatArray, member_N: BoolArray, level: float = 0.95) -> Guesses:
    """The shares of ``SHARES`` whose guesses refute most on these candidates; to be used on *other* candidates.

    A high ε needs many guesses, for the ceiling is about ln(r/3) of r, and guesses about others than members count as
    well. An attack that is sure of few candidates does better with few. These candidates' own bound is luck, and no
    bound.

    Args:
        scores_N: higher means member.
        member_N: the truth.
        level: of the bound that is compared, at δ = 0.
    """
    member_up = member_N[np.argsort(-scores_N, kind="stable")]
    right_members = np.append(0, np.cumsum(member_up))
    right_others = np.append(0, np.cumsum(~member_up[::-1]))

    def refuted(guesses: Guesses) -> float:
        highest, lowest = _counts(guesses, len(scores_N))
        correct = int(right_members[highest] + right_others[lowest])
        return float(special.betaincinv(correct, highest + lowest - correct + 1, 1 - level)) if correct else 0.0

    # The fixed rule comes first: equals do not replace it.
    pairs = [Guesses(), *(Guesses(members, others) for members in SHARES for others in SHARES)]
    return max(pairs, key=refuted)


def _counts(guesses: Guesses, candidates: int) -> tuple[int, int]:
    """How many are guessed to be members and others: at least one, and nobody twice."""
    highest, lowest = int(candidates * guesses.members), int(candidates * guesses.others)
    return (max(1, highest), 0) if lowest == 0 else (highest, lowest)


def one_run_audit(
    scores_N: FloatArray,
    member_N: BoolArray,
    delta: float = 0.0,
    level: float = 0.95,
    guesses: Guesses | None = None,
) -> EpsilonBound:
    """:func:`one_run_epsilon` of the guess that the highest-scoring tenth are members, or of other shares.

    The number of guesses depends on the number of candidates alone. Equal scores at the edge are taken in the order of
    the candidates, which tells nothing about the coins.

    Args:
        scores_N: higher means member.
        member_N: the truth, drawn by independent fair coins.
        delta: δ.
        level: of the one-sided bound.
        guesses: how much is guessed: fixed before looking, or by :func:`chosen_guesses` on other candidates.

    Raises:
        DataError: members and others that are guessed overlap.
    """
    highest, lowest = _counts(guesses or Guesses(), len(scores_N))
    made = highest + lowest
    if made > len(scores_N):
        raise DataError(f"{highest} members and {lowest} others are guessed of {len(scores_N)} candidates: nobody may be both")
    member_down = member_N[np.argsort(-scores_N, kind="stable")]
    correct = int(np.count_nonzero(member_down[:highest]) + np.count_nonzero(~member_down[len(scores_N) - lowest :]))
    value = one_run_epsilon(correct, made, len(scores_N), delta, level)
    return EpsilonBound(
        value=value,
        level=level,
        delta=delta,
        method="one run, guesses fixed beforehand" if guesses is None else "one run, guesses chosen on other candidates",
        guesses=made,
        correct=correct,
        candidates=len(scores_N),
        ceiling=one_run_epsilon(made, made, len(scores_N), delta, level),
    )


def two_sided_epsilon(
    true_positives: ArrayLike,
    members: ArrayLike,
    false_positives: ArrayLike,
    nonmembers: ArrayLike,
    delta: float = 0.0,
    level: float = 0.95,
) -> FloatArray:
    """The ε that TPR and FPR of one rule refute, from Clopper–Pearson limits (Nasr et al. 2021, section 4.3).

        ε ≥ max(log((TPR − δ) / FPR), log((TNR − δ) / FNR)), TPR at its lower and FPR at its upper limit,

    each one-sided at (1 − level) / 2. Arrays broadcast; a rule fixed beforehand gives a valid bound, their maximum does
    not.
    """
    tpr_low, _ = clopper_pearson(true_positives, members, level)
    _, fpr_high = clopper_pearson(false_positives, nonmembers, level)
    positive = np.log(np.maximum(tpr_low - delta, 1e-300)) - np.log(np.maximum(fpr_high, 1e-300))
    negative = np.log(np.maximum(1 - fpr_high - delta, 1e-300)) - np.log(np.maximum(1 - tpr_low, 1e-300))
    return np.asarray(np.maximum(0.0, np.maximum(positive, negative)))


def clopper_pearson_audit(
    scores_N: FloatArray, member_N: BoolArray, chosen_N: BoolArray, delta: float = 0.0, level: float = 0.95
) -> EpsilonBound:
    """:func:`two_sided_epsilon` on one half of the trials, at the threshold with the highest bound on the other half.

    For scores of *independent* trials: many runs with one canary each, or a mechanism that treats examples apart. The
    candidates of one training run are not that; use :func:`one_run_audit` there.

    Args:
        scores_N: higher means member.
        member_N: the truth.
        chosen_N: the half on which the threshold is chosen.
        delta: δ.
        level: of the one-sided bound.

    Raises:
        DataError: a score is NaN, or the choosing half lacks members or non-members.
    """
    curve = roc(scores_N[chosen_N], member_N[chosen_N])
    threshold = float(curve.thresholds_T[np.argmax(_bounds_along(curve, delta, level))])
    said_N, truth_N = scores_N[~chosen_N] >= threshold, member_N[~chosen_N]
    members = int(np.count_nonzero(truth_N))
    true_positives, false_positives = np.count_nonzero(said_N & truth_N), np.count_nonzero(said_N & ~truth_N)
    value = two_sided_epsilon(true_positives, members, false_positives, len(truth_N) - members, delta, level)
    correct = int(np.count_nonzero(said_N == truth_N))
    return EpsilonBound(
        value=float(value),
        level=level,
        delta=delta,
        method="Clopper–Pearson, threshold from the other half",
        guesses=len(truth_N),
        correct=correct,
        candidates=len(truth_N),
        ceiling=float(two_sided_epsilon(members, members, 0, len(truth_N) - members, delta, level)),
    )


def _bounds_along(curve: Roc, delta: float, level: float) -> FloatArray:
    true_positives, false_positives = np.rint(curve.tpr_T * curve.members), np.rint(curve.fpr_T * curve.nonmembers)
    return two_sided_epsilon(true_positives, curve.members, false_positives, curve.nonmembers, delta, level)
