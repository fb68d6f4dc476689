"""Scores that several attacks are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from attacks.membership import BoolArray, FloatArray
from attacks.membership._sides import Side, Sides, surprise


def base1(sides: Sides, taken_SN: BoolArray) -> FloatArray:
    """Log p_y − log of the mean of p_y over the shadows that are taken, at least one for each candidate (BASE1)."""
    log_SN = np.where(taken_SN, -surprise(sides.shadow_SN), -np.inf)
    mean_N = special.logsumexp(log_SN, axis=0) - np.log(taken_SN.sum(axis=0))
    return np.asarray(-surprise(sides.target_N) - mean_N)


def base3(sides: Sides) -> FloatArray:
    """The log-likelihood ratio of two normal distributions of one variance; the pooled one for too few shadows (BASE3)."""
    in_N, out_N = sides.means()
    inside, outside = sides.inside, sides.outside
    counted_N, squares_N = inside.count_N + outside.count_N, inside.squares_N + outside.squares_N
    own_N, pooled = squares_N / np.maximum(counted_N, 1), squares_N.sum() / counted_N.sum()
    enough_N = (counted_N > 2) & (own_N > 0)
    variance_N = np.where(enough_N, own_N, pooled if pooled > 0 else outside.spread)
    return np.asarray((in_N - out_N) / variance_N * (sides.target_N - (in_N + out_N) / 2))


def normal(value_N: FloatArray, mean: FloatArray | float, variance: FloatArray | float) -> FloatArray:
    """The log-density of a normal distribution."""
    return np.asarray(-((value_N - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2)


@dataclass(frozen=True)
class Posterior:
    """The normal-inverse-gamma posterior of one side of each example (BaVarIA, section 3).

    The prior has mean m and variance v, those of the side over all examples and shadows, and the weight of κ₀ = 1 observation.
    """

    side: Side
    kappa_N: FloatArray
    alpha_N: FloatArray
    beta_N: FloatArray

    @classmethod
    def of(cls, side: Side, shape: float, ignored: bool = False) -> Posterior:
        """The posterior with α₀ = ``shape``; ``ignored``: no observation counts, so that it is the prior."""
        count_N = np.zeros_like(side.count_N) if ignored else side.count_N
        squares_N = np.zeros_like(count_N) if ignored else side.squares_N
        # β₀ = v (α₀ − 1), or v if α₀ = 1;  κ_n = κ₀ + n;  α_n = α₀ + n/2
        beta = side.spread * (shape - 1) if shape > 1 else side.spread
        kappa_N, alpha_N = 1 + count_N, shape + count_N / 2
        # β_n = β₀ + SS/2 + κ₀ n (x̄ − m)² / (2 κ_n)
        beta_N = beta + squares_N / 2 + count_N * (side.mean_N - side.mean) ** 2 / (2 * kappa_N)
        return cls(side if not ignored else _prior(side), kappa_N, alpha_N, beta_N)

    def normal(self, value_N: FloatArray) -> FloatArray:
        """Log N(φ; x̄, β_n / (α_n − 1)); the prior's for an example without observations."""
        seen_N = self.side.count_N > 0
        variance_N = np.where(seen_N, self.beta_N / np.where(seen_N, self.alpha_N - 1, 1.0), self.side.spread)
        return normal(value_N, np.where(seen_N, self.side.mean_N, self.side.mean), variance_N)

    def predictive(self, value_N: FloatArray) -> FloatArray:
        """Log of the Student t density with 2 α_n degrees of freedom, at location (κ₀ m + n x̄)/κ_n."""
        location_N = (self.side.mean + self.side.count_N * self.side.mean_N) / self.kappa_N
        scale_N = np.sqrt(self.beta_N * (self.kappa_N + 1) / (self.alpha_N * self.kappa_N))
        return np.asarray(stats.t.logpdf(value_N, 2 * self.alpha_N, location_N, scale_N))


def bavaria_t(sides: Sides, offline: bool = False) -> FloatArray:
    """The log-ratio of the two predictives; offline the members' side is its prior."""
    inside = Posterior.of(sides.inside, shape=2.0, ignored=offline)
    return inside.predictive(sides.target_N) - Posterior.of(sides.outside, shape=2.0).predictive(sides.target_N)


def _prior(side: Side) -> Side:
    """The side as if it had been seen of no example."""
    nothing_N = np.zeros_like(side.count_N)
    return Side(nothing_N, nothing_N, nothing_N, nothing_N + side.variance, side.mean, side.spread, side.variance)
