"""Empirical lower bounds on ε: the success of an attack refutes every smaller ε.

**Guarantees.** Each bound exceeds the true ε with a probability of at most 1 − level, if attack, threshold and number of
guesses were fixed without looking at the candidates that are counted. The maximum over thresholds, numbers of guesses or
attacks on the same candidates is not such a bound: it is above the true ε in up to 39 % of runs for a claimed 5 %.
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
"""The share of candidates that the one-run audit guesses to be members by default; fixed beforehand."""

SHARES: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
"""The shares from which :func:`chosen_guesses` chooses, for members and non-members; one half of each guesses all."""


@dataclass(frozen=True)
class EpsilonBound:
    """A lower confidence bound on ε.

    Args:
        value: the bound, at least 0; 0 says nothing, because every mechanism has ε ≥ 0.
        level: confidence level of the one-sided bound.
        delta: the δ at which the bound holds.
        method: name of the method.
        guesses: number of guesses.
        correct: number of right guesses.
        candidates: number of candidates, whose membership was a fair coin.
        ceiling: the bound if every guess had been right; this audit could not refute a larger ε for any mechanism.
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
    """Lower bound on ε from one training run with many independent coins (Steinke, Nasr & Jagielski 2023, theorem 5.2).

    If δ = 0, the number of right guesses is stochastically at most Binomial(r, e^ε / (1 + e^ε)), and the bound has the
    closed form logit(BetaPPF(1 − level; v, r − v + 1)). If δ > 0, it is the ε at which :func:`_p_value` is 1 − level.

    Args:
        correct: v, number of right guesses.
        guesses: r, number of guesses about members or non-members, fixed beforehand or chosen on other candidates.
        candidates: m, number of examples included by independent fair coins, guessed or not.
        delta: δ.
        level: confidence level of the one-sided bound.

    Raises:
        DataError: more right guesses than guesses, or more guesses than candidates.
    """
    if not 0 <= correct <= guesses <= candidates:
        raise DataError(
            f"{correct} correct of {guesses} guesses on {candidates} candidates: each must be at most the next; count again"
        )
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
    """Bound on P[v or more right] at (ε, δ): β + 2mδ·max_i P[v − i ≤ V < v] / i, with V ~ Binomial(r, e^ε/(1+e^ε))."""
    chance = special.expit(epsilon)
    beta = special.betainc(correct, guesses - correct + 1, chance)
    back = np.arange(1, correct + 1)
    below = correct - back
    log_choose = -special.betaln(guesses - below + 1, below + 1) - np.log1p(guesses)
    mass = np.exp(log_choose + below * np.log(chance) + (guesses - below) * special.log_expit(-epsilon))
    return float(min(1.0, beta + 2 * candidates * delta * (np.cumsum(mass) / back).max()))


@dataclass(frozen=True)
class Guesses:
    """Shares of candidates to guess: those of highest scores as members, those of lowest scores as others (non-members)."""

    members: float = SHARE
    nonmembers: float = 0.0


def chosen_guesses(scores_N: FloatArray, member_N: BoolArray, level: float = 0.95) -> Guesses:
    """The shares of guesses that give the largest bound on these candidates, for use on *other* candidates.

    A high ε needs many guesses, because the ceiling is about ln(r/3) for r guesses; guesses of non-members count as well. An
    attack that is sure of only a few candidates does better with few guesses. The bound on these same candidates is not
    valid, because it was maximised on them.

    Args:
        scores_N: scores of the candidates; higher means member.
        member_N: whether each candidate is a member.
        level: confidence level of the bounds that are compared, at δ = 0.

    Returns:
        a pair of shares from ``SHARES``, or the default if no pair does better.
    """
    member_up = member_N[np.argsort(-scores_N, kind="stable")]
    right_members = np.append(0, np.cumsum(member_up))
    right_others = np.append(0, np.cumsum(~member_up[::-1]))

    def refuted(guesses: Guesses) -> float:
        highest, lowest = _counts(guesses, len(scores_N))
        correct = int(right_members[highest] + right_others[lowest])
        return float(special.betaincinv(correct, highest + lowest - correct + 1, 1 - level)) if correct else 0.0

    # The default comes first, so that an equal pair does not replace it.
    pairs = [Guesses(), *(Guesses(members, others) for members in SHARES for others in SHARES)]
    return max(pairs, key=refuted)


def _counts(guesses: Guesses, candidates: int) -> tuple[int, int]:
    """Numbers of candidates to guess as members and as others; together at least one."""
    highest, lowest = int(candidates * guesses.members), int(candidates * guesses.nonmembers)
    return (max(1, highest), 0) if lowest == 0 else (highest, lowest)


def one_run_audit(
    scores_N: FloatArray,
    member_N: BoolArray,
    delta: float = 0.0,
    level: float = 0.95,
    guesses: Guesses | None = None,
) -> EpsilonBound:
    """One-run audit: a lower bound on ε from guesses about the candidates with the highest and the lowest scores.

    The bound is that of :func:`one_run_epsilon`. The number of guesses depends on the number of candidates alone. Equal
    scores at the edge are taken in the order of the candidates, which is independent of the coins.

    Args:
        scores_N: scores of the candidates; higher means member.
        member_N: whether each candidate is a member, drawn by independent fair coins.
        delta: δ.
        level: confidence level of the one-sided bound.
        guesses: shares to guess, fixed beforehand or by :func:`chosen_guesses` on other candidates; None: the highest-scoring
            tenth as members.

    Raises:
        DataError: a candidate would be guessed both as a member and as a non-member.
    """
    highest, lowest = _counts(guesses or Guesses(), len(scores_N))
    made = highest + lowest
    if made > len(scores_N):
        raise DataError(
            f"{made} guesses on {len(scores_N)} candidates: must not be more; lower the shares of members and nonmembers"
        )
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
    """Lower bound on ε from the TPR and FPR of one decision rule (Nasr et al. 2021, section 4.3).

        ε ≥ max(log((TPR − δ) / FPR), log((TNR − δ) / FNR))

    with TPR at its lower and FPR at its upper Clopper–Pearson limit, each one-sided at (1 − level) / 2. Arrays broadcast. The
    bound is valid for a rule that was fixed beforehand; the maximum over several rules is not valid.
    """
    tpr_low, _ = clopper_pearson(true_positives, members, level)
    _, fpr_high = clopper_pearson(false_positives, nonmembers, level)
    positive = np.log(np.maximum(tpr_low - delta, 1e-300)) - np.log(np.maximum(fpr_high, 1e-300))
    negative = np.log(np.maximum(1 - fpr_high - delta, 1e-300)) - np.log(np.maximum(1 - tpr_low, 1e-300))
    return np.asarray(np.maximum(0.0, np.maximum(positive, negative)))


def clopper_pearson_audit(
    scores_N: FloatArray, member_N: BoolArray, chosen_N: BoolArray, delta: float = 0.0, level: float = 0.95
) -> EpsilonBound:
    """Audit of independent trials: :func:`two_sided_epsilon` on one half, at the threshold that is best on the other half.

    The trials must be *independent*: many runs with one canary each, or a mechanism that treats examples separately. The
    candidates of one training run are not independent; use :func:`one_run_audit` for them.

    Args:
        scores_N: scores of the trials; higher means member.
        member_N: whether each trial included its example.
        chosen_N: the half on which the threshold is chosen.
        delta: δ.
        level: confidence level of the one-sided bound.

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
