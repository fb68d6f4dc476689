"""Empirical lower bounds on µ, the signal-to-noise ratio of Gaussian noise: an attack's success refutes a smaller µ.

**These bounds refute a scale of Gaussian noise, never an ε.** Each assumes that the trade-off curve of one candidate in or
out is that of N(0, 1) against N(µ, 1) for some µ, that is Gaussian differential privacy (Dong, Roth & Su 2022). If so, a
bound exceeds the true µ with a probability of at most 1 − level. A bound above the promised µ says that the noise is too
small, with far fewer candidates than a bound on ε needs. It says nothing true about a mechanism with other noise: for Laplace
noise every ε derived from these bounds is wrong most of the time. Bounds on ε that hold for any mechanism are in
:mod:`privfl.auditing.epsilon`.

For one release of Gaussian noise µ is the sensitivity over the standard deviation, 1 / (noise multiplier). Subsampling makes
the true trade-off curve lower than the Gaussian one of the same µ; a bound for the curve's own family is then tighter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from privfl.auditing.roc import Roc, clopper_pearson, roc
from privfl.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

HIGHEST = 100.0
"""Largest µ that is searched; ε is in the thousands there, so nothing is private."""


@dataclass(frozen=True)
class NoiseBound:
    """A lower confidence bound on µ if the noise is Gaussian; it says nothing about other noise.

    Args:
        mu: the bound, at least 0; 0 says nothing.
        level: confidence level of the one-sided bound.
        method: name of the method.
        candidates: number of candidates, whose membership was a fair coin.
        ceiling: the bound if the attack had told all candidates apart; infinite if the method has no ceiling.
    """

    mu: float
    level: float
    method: str
    candidates: int
    ceiling: float

    @property
    def noise_multiplier(self) -> float:
        """Upper bound 1 / µ on the noise multiplier, for one release."""
        return float("inf") if self.mu == 0 else 1 / self.mu


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The ε of µ-Gaussian differential privacy at δ (Balle & Wang 2018, theorem 8).

    It is valid for Gaussian noise only. From a :class:`NoiseBound` it gives no lower bound on the ε of an unknown mechanism.

    Args:
        mu: at least 0.
        delta: above 0, below 1.
    """
    if mu == 0 or _gaussian_delta(0.0, mu) <= delta:
        return 0.0
    highest = mu * mu / 2 + mu * float(-special.ndtri(delta)) + 1
    return float(optimize.brentq(lambda epsilon: _gaussian_delta(epsilon, mu) - delta, 0.0, highest, xtol=1e-10))


def _gaussian_delta(epsilon: float, mu: float) -> float:
    second = np.exp(epsilon + special.log_ndtr(-mu / 2 - epsilon / mu))
    return float(special.ndtr(mu / 2 - epsilon / mu) - second)


def two_sided_mu(
    true_positives: ArrayLike, members: ArrayLike, false_positives: ArrayLike, nonmembers: ArrayLike, level: float = 0.95
) -> FloatArray:
    """Lower bound on µ from the TPR and FPR of one decision rule, µ ≥ Φ⁻¹(TPR) − Φ⁻¹(FPR) (Nasr et al. 2023, section 4).

    TPR is at its lower and FPR at its upper Clopper–Pearson limit, each one-sided at (1 − level) / 2. Arrays broadcast. The
    bound is valid for Gaussian noise and a rule that was fixed beforehand; the maximum over several rules is not valid.
    """
    tpr_low, _ = clopper_pearson(true_positives, members, level)
    _, fpr_high = clopper_pearson(false_positives, nonmembers, level)
    return np.asarray(np.maximum(0.0, np.nan_to_num(special.ndtri(tpr_low) - special.ndtri(fpr_high), neginf=0.0)))


def gdp_audit(scores_N: FloatArray, member_N: BoolArray, chosen_N: BoolArray, level: float = 0.95) -> NoiseBound:
    """Audit of Gaussian noise: :func:`two_sided_mu` on some candidates, at the threshold that is best on the others.

    It treats the candidates as independent trials. They are independent in one release of noise in many dimensions whose
    signals are inner products with nearly orthogonal directions. In one training run they are only nearly independent;
    :func:`one_run_noise_audit` does not need independence.

    Args:
        scores_N: scores of the candidates; higher means member.
        member_N: whether each candidate is a member, drawn by independent fair coins.
        chosen_N: the candidates on which the threshold is chosen; a random third serves better than a half.
        level: confidence level of the one-sided bound.

    Raises:
        DataError: a score is NaN, or a part lacks members or non-members.
    """
    found = Counted.of(scores_N, member_N, chosen_N, level)
    return NoiseBound(
        mu=float(two_sided_mu(found.true_positives, found.members, found.false_positives, found.nonmembers, level)),
        level=level,
        method="Gaussian noise, Clopper–Pearson, threshold from other candidates",
        candidates=found.members + found.nonmembers,
        ceiling=float(two_sided_mu(found.members, found.members, 0, found.nonmembers, level)),
    )


@dataclass(frozen=True)
class Counted:
    """Right and wrong positives of one threshold, among candidates that did not choose it."""

    true_positives: int
    members: int
    false_positives: int
    nonmembers: int

    @classmethod
    def of(cls, scores_N: FloatArray, member_N: BoolArray, chosen_N: BoolArray, level: float) -> Self:
        """The counts at the threshold with the highest bound on µ among those that choose; see :func:`gdp_audit`."""
        curve = roc(scores_N[chosen_N], member_N[chosen_N])
        measured = roc(scores_N[~chosen_N], member_N[~chosen_N])
        threshold = float(curve.thresholds_T[np.argmax(_mu_along(curve, level))])
        said_N, truth_N = scores_N[~chosen_N] >= threshold, member_N[~chosen_N]
        right, wrong = int(np.count_nonzero(said_N & truth_N)), int(np.count_nonzero(said_N & ~truth_N))
        return cls(right, measured.members, wrong, measured.nonmembers)


def _mu_along(curve: Roc, level: float) -> FloatArray:
    true_positives, false_positives = np.rint(curve.tpr_T * curve.members), np.rint(curve.fpr_T * curve.nonmembers)
    return two_sided_mu(true_positives, curve.members, false_positives, curve.nonmembers, level)


def one_run_mu(correct: int, guesses: int, candidates: int, level: float = 0.95) -> float:
    """Lower bound on µ from the right guesses in one training run (Mahloujifar et al. 2024).

    It uses the recursion of their f-DP audit, for the Gaussian trade-off curve.

    Args:
        correct: number of right guesses.
        guesses: number of guesses, fixed beforehand or chosen on other candidates.
        candidates: number of examples included by independent fair coins, guessed or not.
        level: confidence level of the one-sided bound.

    Raises:
        DataError: more right guesses than guesses, or more guesses than candidates.
    """
    if not 0 <= correct <= guesses <= candidates:
        raise DataError(
            f"{correct} correct of {guesses} guesses on {candidates} candidates: each must be at most the next; count again"
        )
    if correct == 0 or not _refuted(0.0, correct, guesses, candidates, 1 - level):
        return 0.0
    low, high = 0.0, HIGHEST
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _refuted(middle, correct, guesses, candidates, 1 - level) else (low, middle)
    return low


def _refuted(mu: float, correct: int, guesses: int, candidates: int, alpha: float) -> bool:
    """Whether µ is refuted, at an error rate of ``alpha``, by the number of right guesses."""
    return too_many(lambda r: float(special.ndtr(special.ndtri(r) - mu)), correct, guesses, candidates, alpha)


def too_many(lowest_fpr: Callable[[float], float], correct: int, guesses: int, candidates: int, alpha: float) -> bool:
    """Whether a trade-off curve is refuted, at an error rate of ``alpha``, by the number of right guesses.

    By recursion over the guesses (Mahloujifar et al. 2024, algorithm 2).

    Args:
        lowest_fpr: TPR -> the lowest FPR that the curve allows.
        correct: the number of right guesses.
        guesses: the number of guesses.
        candidates: the number of candidates, guessed or not.
        alpha: the error rate.
    """
    r, h = alpha * correct / candidates, alpha * (guesses - correct) / candidates
    i_C = np.arange(correct - 1, -1, -1)
    for weight in (i_C / (guesses - i_C)).tolist():
        lowest = max(h, lowest_fpr(r))
        r, h = r + weight * (lowest - h), lowest
    return r + h > guesses / candidates


def one_run_noise_audit(scores_N: FloatArray, member_N: BoolArray, level: float = 0.95, share: float = 0.1) -> NoiseBound:
    """One-run audit of Gaussian noise: :func:`one_run_mu`, guessing that the highest-scoring candidates are members.

    Args:
        scores_N: scores of the candidates; higher means member.
        member_N: whether each candidate is a member, drawn by independent fair coins.
        level: confidence level of the one-sided bound.
        share: share of the candidates to guess, fixed beforehand.
    """
    correct, guesses = highest(scores_N, member_N, share)
    return NoiseBound(
        mu=one_run_mu(correct, guesses, len(scores_N), level),
        level=level,
        method="Gaussian noise, one run, guesses fixed beforehand",
        candidates=len(scores_N),
        ceiling=one_run_mu(guesses, guesses, len(scores_N), level),
    )


def highest(scores_N: FloatArray, member_N: BoolArray, share: float) -> tuple[int, int]:
    """How many of that share of the candidates with the highest scores are members, and how many they are, at least one."""
    guesses = max(1, int(len(scores_N) * share))
    return int(np.count_nonzero(member_N[np.argsort(-scores_N, kind="stable")[:guesses]])), guesses


def gaussian_pair_audit(signals_N: FloatArray, member_N: BoolArray, level: float = 0.95) -> NoiseBound:
    """Lower bound on µ from the two-sample t statistic, which is noncentral t if the signals of both kinds are Gaussian.

    The statistic is t = (mean of members − mean of others) / s·√(n₁n₀/(n₁+n₀)), with the pooled standard deviation s and
    n₁ + n₀ − 2 degrees of freedom; its noncentrality is µ·√(n₁n₀/(n₁+n₀)).

    The signals must be Gaussian, independent and of equal variance by the noise itself, such as the inner products of the
    noised update with each candidate's own direction. The scores of an attack on a model are not such signals.

    Args:
        signals_N: finite signals of the candidates; higher means member.
        member_N: whether each candidate is a member, drawn by independent fair coins.
        level: confidence level of the one-sided bound.

    Raises:
        DataError: a signal is not finite, there are fewer than two signals of a kind, or those of each kind are all equal.
    """
    inside, outside = signals_N[member_N], signals_N[~member_N]
    if not np.isfinite(signals_N).all() or min(len(inside), len(outside)) < 2:
        raise DataError(
            f"{len(inside)} members and {len(outside)} others: must be at least two finite signals of each; add candidates"
        )
    freedom = len(signals_N) - 2
    spread = np.sqrt((inside.var() * len(inside) + outside.var() * len(outside)) / freedom)
    if spread == 0:
        raise DataError("the signals of each kind are all equal: must have noise; audit the noised update")
    scale = float(np.sqrt(len(inside) * len(outside) / len(signals_N)))
    found = float((inside.mean() - outside.mean()) / spread) * scale
    return NoiseBound(
        mu=_noncentrality(found, freedom, level) / scale,
        level=level,
        method="Gaussian noise, pair of signals, noncentral t",
        candidates=len(signals_N),
        ceiling=float("inf"),
    )


def _noncentrality(found: float, freedom: int, level: float) -> float:
    """The noncentrality, at least 0, at which a t statistic of ``found`` or more has probability 1 − level."""
    if stats.t.sf(found, freedom) >= 1 - level:
        return 0.0
    return float(optimize.brentq(lambda centre: stats.nct.sf(found, freedom, centre) - (1 - level), 0.0, found))
