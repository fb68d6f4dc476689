"""Point estimates of ε: numbers near the truth if a model of the scores holds. None of them is a bound.

Two Gaussians fitted to scores give an ε that is above the true one in 85 % of runs and more, for Gaussian noise itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from privfl.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def last_iterate_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """ε of the last model of DP-SGD as if its loss were linear (Steinke et al. 2025, "The last iterate advantage").

    It is the ε between N(0, σ²T) and the mixture over k ~ Binomial(T, q) of N(k, σ²T), the larger of both directions. An
    attack on the final model can reach about that much; the ε of all models together is larger.

    Args:
        noise_multiplier: σ.
        sample_rate: q.
        steps: T, in the whole run.
        delta: δ.
    """
    wide = noise_multiplier * np.sqrt(steps)
    centres = np.arange(steps + 1)
    log_weights = stats.binom.logpmf(centres, steps, sample_rate)
    kept = log_weights > -60
    centres, log_weights = centres[kept], log_weights[kept]

    def log_ratio(x: float) -> float:
        return float(special.logsumexp(log_weights + centres * (x - centres / 2) / wide**2))

    def delta_of(epsilon: float) -> float:
        found = []
        for sign in (1.0, -1.0):
            # The log ratio rises from log P[k = 0] without end.
            low, high = -60 * wide - steps, 60 * wide + 2 * steps
            if log_ratio(low) - sign * epsilon > 0:
                found.append(0.0 if sign < 0 else 1.0 - np.exp(epsilon))
                continue
            edge = float(optimize.brentq(lambda x, at=sign * epsilon: log_ratio(x) - at, low, high))
            tail = stats.norm.sf if sign > 0 else stats.norm.cdf
            with_it = float(np.exp(log_weights) @ tail(edge, centres, wide))
            without = float(tail(edge, 0, wide))
            found.append(with_it - np.exp(epsilon) * without if sign > 0 else without - np.exp(epsilon) * with_it)
        return max(found)

    return _epsilon_of(delta_of, delta)


def two_gaussian_epsilon(scores_N: FloatArray, member_N: BoolArray, delta: float) -> float:
    """ε between two Gaussians that have mean and deviation of the members' and of the others' scores.

    Args:
        scores_N: higher means member.
        member_N: the truth.
        delta: δ, above 0.

    Raises:
        DataError: a kind has fewer than two scores, or all its scores are equal or not finite.
    """
    inside, outside = scores_N[member_N], scores_N[~member_N]
    if min(len(inside), len(outside)) < 2 or not np.isfinite(scores_N).all() or min(inside.std(), outside.std()) == 0:
        raise DataError(f"{len(inside)} members and {len(outside)} others: each kind needs two finite scores that differ")
    ours, theirs = (float(one.mean()) for one in (inside, outside)), (float(one.std(ddof=1)) for one in (inside, outside))
    (in_mean, out_mean), (in_sd, out_sd) = ours, theirs
    return gaussians_epsilon((in_mean, in_sd), (out_mean, out_sd), delta)


def one_shot_epsilon(cosines_N: FloatArray, size: int, delta: float) -> float:
    """ε from the cosines of random canaries with what was released (Andrew et al. 2023, section 3).

    A canary that was not in has a cosine of N(0, 1/D) in D dimensions, so that only cosines of those that were in are needed.

    Args:
        cosines_N: of the canaries that were in, at least two, not all equal.
        size: D.
        delta: δ, above 0.

    Raises:
        DataError: they are fewer, or all equal.
    """
    if len(cosines_N) < 2 or not np.isfinite(cosines_N).all() or cosines_N.std() == 0:
        raise DataError(f"{len(cosines_N)} cosines of canaries that were in: two finite ones that differ are needed")
    found = (float(cosines_N.mean()), float(cosines_N.std(ddof=1)))
    return gaussians_epsilon(found, (0.0, size**-0.5), delta)


def gaussians_epsilon(one: tuple[float, float], other: tuple[float, float], delta: float) -> float:
    """ε between two Gaussians at δ, the larger of both directions.

    Args:
        one: mean and standard deviation of one of them.
        other: those of the other.
        delta: δ, above 0.
    """
    reach = [(mean - 40 * sd, mean + 40 * sd) for mean, sd in (one, other)]
    x = np.linspace(min(a for a, _ in reach), max(b for _, b in reach), 40_001)
    log_p, log_q = stats.norm.logpdf(x, *one), stats.norm.logpdf(x, *other)
    step = x[1] - x[0]

    def delta_of(epsilon: float) -> float:
        # ∫ max(p − e^ε q, 0) in both directions
        sides = ((log_p, log_q), (log_q, log_p))
        with np.errstate(over="ignore"):
            return max(float((np.exp(a) * -np.expm1(np.minimum(epsilon + b - a, 0))).sum() * step) for a, b in sides)

    return _epsilon_of(delta_of, delta)


def _epsilon_of(delta_of: Callable[[float], float], delta: float) -> float:
    """The ε at which δ(ε), which falls, is ``delta``; 0 if it is below that everywhere, 100 if above up to there."""
    if delta_of(0.0) <= delta:
        return 0.0
    highest = 1.0
    while delta_of(highest) > delta:
        highest *= 2
        if highest > 100:
            return 100.0
    return float(optimize.brentq(lambda epsilon: delta_of(epsilon) - delta, 0.0, highest, xtol=1e-6))
