"""Lower bounds on the noise of a known mechanism: which noise multipliers do the guesses of an attack refute?

**A noise multiplier is refuted, never an ε.** Each bound takes for granted that the run did what it says but for the noise:
sampling, number of steps, clipping norm. Held against the promised noise it says that the noise is too small. A run that
clips wrongly, or samples otherwise, is flagged by the same figure. It says nothing about other mechanisms: on Laplace noise
it is wrong most of the time (:mod:`privfl.auditing.noise`).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.bound import NoiseFamily, fpr_bound, tpr_bound
from privfl.auditing.noise import Counted, gaussian_pair_audit, highest, too_many
from privfl.auditing.roc import clopper_pearson

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

FACTORS: Final = tuple(2 ** (step / 16) for step in range(-48, 49))
"""The noise multipliers that are tried, as multiples of the promised one: 1/8 to 8, in steps of 4.4 %."""

SHARE: Final = 0.1
"""The share of the candidates that are guessed to be members in one run, fixed beforehand."""


_Refuted = Callable[[Sequence[float], Sequence[float]], bool]
"""Whether a privacy curve, ε and δ(ε), is refuted."""


@dataclass(frozen=True)
class RefutedNoise:
    """The noise multiplier of the mechanism is below ``below``, at that confidence level; None: nothing was refuted.

    Args:
        below: the least of the noise multipliers tried that the guesses refute.
        least: the least that could have been refuted, had every guess been right; None: none of those tried; 0: any.
        level: of the one-sided bound.
        method: how it was computed.
        candidates: how many were counted.
    """

    below: float | None
    least: float | None
    level: float
    method: str
    candidates: int


def clopper_pearson_noise(
    scores_N: FloatArray, member_N: BoolArray, chosen_N: BoolArray, family: NoiseFamily, level: float = 0.95
) -> RefutedNoise:
    """The noise that TPR and FPR of one threshold refute, for candidates that count as independent trials.

    TPR is at its lower and FPR at its upper Clopper–Pearson limit, each one-sided at (1 − level) / 2. A noise multiplier is
    refuted if its trade-off curve allows no such TPR. For one release of Gaussian noise it is :func:`gdp_audit` of
    :mod:`privfl.auditing.noise`.

    Args:
        scores_N: higher means member.
        member_N: the truth, drawn by independent fair coins.
        chosen_N: those on which the threshold is chosen.
        family: the mechanism.
        level: of the one-sided bound.

    Raises:
        DataError: a score is NaN, or a part lacks members or non-members.
    """
    found = Counted.of(scores_N, member_N, chosen_N, level)

    def refuted(true_positives: int, false_positives: int) -> _Refuted:
        tpr_low, _ = clopper_pearson(true_positives, found.members, level)
        _, fpr_high = clopper_pearson(false_positives, found.nonmembers, level)
        return lambda epsilons, deltas: float(tpr_low) > float(tpr_bound(float(fpr_high), epsilons, deltas))

    return RefutedNoise(
        below=_least(refuted(found.true_positives, found.false_positives), family),
        least=_least(refuted(found.members, 0), family),
        level=level,
        method="Clopper–Pearson, threshold from other candidates",
        candidates=found.members + found.nonmembers,
    )


def one_run_noise(scores_N: FloatArray, member_N: BoolArray, family: NoiseFamily, level: float = 0.95) -> RefutedNoise:
    """The noise that the guesses of one training run refute: the tenth with the highest scores are guessed to be members.

    It is the f-DP audit of Mahloujifar et al. 2024 with the trade-off curve of the mechanism. Candidates need not be
    independent trials.

    Args:
        scores_N: higher means member.
        member_N: the truth, drawn by independent fair coins.
        family: the mechanism.
        level: of the one-sided bound.
    """
    correct, guesses = highest(scores_N, member_N, SHARE)

    def refuted(right: int) -> _Refuted:
        return lambda epsilons, deltas: too_many(
            lambda tpr: fpr_bound(tpr, epsilons, deltas), right, guesses, len(scores_N), 1 - level
        )

    return RefutedNoise(
        below=_least(refuted(correct), family),
        least=_least(refuted(guesses), family),
        level=level,
        method="one run, guesses fixed beforehand",
        candidates=len(scores_N),
    )


def gaussian_pair_noise(
    signals_N: FloatArray, member_N: BoolArray, family: NoiseFamily, level: float = 0.95
) -> RefutedNoise | None:
    """The noise that the two-sample t statistic of linear signals refutes; None if the mechanism has other noise than Gaussian.

    A signal is the sum over releases of the inner product with a candidate's own direction. A release with standard deviation
    σ·c has a member in it with probability q, and it moves by c at most. T releases with weights w_t then differ by Σ w_t q c_t
    on average, and the noise deviates by σ·√(Σ w_t² c_t²), so that

        µ ≤ q √T / σ        (Cauchy and Schwarz),

    with which :func:`privfl.auditing.noise.gaussian_pair_audit` is compared. Anything else in a signal only adds deviation. For
    one release to everybody the bound is exact; subsampled members are Gaussian to the extent that the central limit theorem
    holds, which a test holds at 20 rounds. A score that is not linear in the releases, such as a loss, is no such signal.

    Args:
        signals_N: higher means member.
        member_N: the truth, drawn by independent fair coins.
        family: the mechanism.
        level: of the one-sided bound.

    Raises:
        DataError: a signal is not finite, there are fewer than two of a kind, or those of each kind are all equal.
    """
    if not family.samples:
        return None
    largest = max(rate * np.sqrt(steps) for rate, steps in family.samples)
    found = gaussian_pair_audit(signals_N, member_N, level)
    below = largest * found.noise_multiplier
    return RefutedNoise(
        below=float(below) if below <= FACTORS[-1] * family.promised else None,
        least=0.0,
        level=level,
        method="pair of Gaussian signals, noncentral t",
        candidates=found.candidates,
    )


def _least(refuted: _Refuted, family: NoiseFamily) -> float | None:
    """The least noise multiplier whose privacy curve is refuted: what refutes a noise refutes every larger one."""

    def above(factor: float) -> bool:
        curve = family.curve(factor * family.promised)
        return curve is None or refuted(*curve)

    place = bisect.bisect_left(FACTORS, True, key=above)
    if place == len(FACTORS) or family.curve(FACTORS[place] * family.promised) is None:
        return None
    return FACTORS[place] * family.promised
