"""Rényi differential privacy of the mechanisms, and its conversion to (ε, δ).

A mechanism is priced by its Rényi divergences D_α at fixed orders α. Those of a composition are their sums (Mironov 2017,
proposition 1). Each order gives a valid bound; every conversion takes the best one.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping
from typing import Final, assert_never

import dp_accounting
import numpy as np
from dp_accounting.rdp import RdpAccountant
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, logsumexp

from privfl.errors import PrivacyError
from privfl.privacy.mechanisms import (
    DiscreteGaussianSum,
    FixedSizeGaussian,
    Gaussian,
    MatrixGaussian,
    Mechanism,
    PoissonGaussian,
    ShuffledEpoch,
    SkellamSum,
)

Divergences = NDArray[np.float64]
"""D_α at each of ``ORDERS``; infinite at an order that was left out."""

ORDERS: Final = np.array(
    (*(order / 4 for order in range(5, 24) if order % 4), *range(2, 65), 80, 96, 128, 192, 256, 384, 512), np.float64
)
ORDERS.flags.writeable = False

_LARGEST = int(ORDERS[-1])
_INTEGER_A = ORDERS % 1 == 0


class _NoConvergenceChatter(logging.Filter):
    """Log filter that drops notices about fractional orders left out; the minimum over the other orders stays a bound."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "failed to converge" not in str(record.msg)


logging.getLogger("absl").addFilter(_NoConvergenceChatter())


def composed(history: Mapping[Mechanism, int], quick: bool = False) -> Divergences:
    """D_α of all releases of a history together.

    Args:
        history: the releases.
        quick: fractional orders may be left out, because each costs a hundred times an integer one.

    Raises:
        PrivacyError: a mechanism has no Rényi bound.
    """
    total = np.zeros_like(ORDERS)
    for mechanism, times in history.items():
        total += times * divergences(mechanism, quick)
    return total


def epsilon(divergence_A: Divergences, delta: float) -> float:
    """ε at ``delta``: min over α of D_α + log(1 − 1/α) − (log δ + log α)/(α − 1), at least 0.

    Source: Canonne, Kamath & Steinke 2020, proposition 12.
    """
    found = divergence_A + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(0.0, float(np.min(found)))


def epsilon_as_papers(divergence_A: Divergences, delta: float) -> float:
    """ε as papers before 2020 state it: min over α of D_α + log(1/δ)/(α − 1) (Mironov 2017, proposition 3)."""
    return float(np.min(divergence_A + math.log(1 / delta) / (ORDERS - 1)))


def delta(divergence_A: Divergences, epsilons: ArrayLike) -> NDArray[np.float64]:
    """δ at each ε, of the shape of ``epsilons``: the inverse of :func:`epsilon`, at most 1.

    δ = min over α of exp((α − 1)(D_α − ε)) (1 − 1/α)^α / (α − 1)
    """
    grid_EA = np.asarray(epsilons, np.float64)[..., None]
    logs_EA = (ORDERS - 1) * (divergence_A - grid_EA) + ORDERS * np.log1p(-1 / ORDERS) - np.log(ORDERS - 1)
    return np.asarray(np.exp(np.minimum(0.0, logs_EA.min(axis=-1))), np.float64)


@functools.lru_cache(maxsize=4096)
def divergences(mechanism: Mechanism, quick: bool = False) -> Divergences:
    """D_α of one use of a mechanism at each of ``ORDERS``; read-only. ``quick`` is as in :func:`composed`.

    Raises:
        PrivacyError: no bound is known, which is so for Poisson samples under ``replace_one``.
    """
    found = _divergences(mechanism, quick)
    found.flags.writeable = False
    return found


def _divergences(mechanism: Mechanism, quick: bool) -> Divergences:
    match mechanism:
        case Gaussian(noise_multiplier=noise) | ShuffledEpoch(noise_multiplier=noise):
            return _gaussian(noise, mechanism.relation)
        case MatrixGaussian():
            return _gaussian(mechanism.noise_multiplier / mechanism.sensitivity, mechanism.relation)
        case PoissonGaussian():
            return _poisson_gaussian(mechanism, quick)
        case FixedSizeGaussian():
            return _fixed_size_gaussian(mechanism)
        case SkellamSum():
            return _sampled(_skellam(mechanism), mechanism.sample_rate)
        case DiscreteGaussianSum():
            return _sampled(_discrete_gaussian(mechanism), mechanism.sample_rate)
    assert_never(mechanism)


def _gaussian(noise_multiplier: float, relation: str) -> Divergences:
    sensitivity = 2.0 if relation == "replace_one" else 1.0
    # D_α = α Δ² / 2σ²
    return ORDERS * (sensitivity / noise_multiplier) ** 2 / 2


def _poisson_gaussian(mechanism: PoissonGaussian, quick: bool) -> Divergences:
    rate, noise = mechanism.sample_rate, mechanism.noise_multiplier
    if rate == 1.0:
        return _gaussian(noise, mechanism.relation)
    if mechanism.relation == "replace_one":
        raise PrivacyError("Poisson samples under replace_one have no Rényi bound here; price them by accountant 'pld'")
    found = _sampled(_integers() / (2 * noise**2), rate)
    if not quick:
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        found[~_INTEGER_A] = _of_library(RdpAccountant(ORDERS[~_INTEGER_A]).compose(event))
    return found


def _fixed_size_gaussian(mechanism: FixedSizeGaussian) -> Divergences:
    """D_α of sampling without replacement, at most that of no sampling (Wang et al. 2019, theorem 27 of arXiv:1808.00087)."""
    # The library's noise multiplier is relative to the sensitivity, which is 2C if a unit is replaced.
    over_sensitivity = mechanism.noise_multiplier / 2
    event = dp_accounting.SampledWithoutReplacementDpEvent(
        mechanism.population, mechanism.size, dp_accounting.GaussianDpEvent(over_sensitivity)
    )
    # Up to order 256 the library's time grows with the square of the order.
    quick_A = (ORDERS <= 64) | (ORDERS > 256)
    accountant = RdpAccountant(ORDERS[quick_A], dp_accounting.NeighboringRelation.REPLACE_ONE)
    found = _gaussian(mechanism.noise_multiplier, "replace_one")
    found[quick_A] = np.minimum(_of_library(accountant.compose(event)), found[quick_A])
    return found


def _of_library(accountant: RdpAccountant) -> Divergences:
    # The library has no public name for the divergences.
    return np.array(accountant._rdp, dtype=np.float64)


def _skellam(mechanism: SkellamSum) -> Divergences:
    """D_α at orders 2, 3, ..., ``_LARGEST``, with μ the variance (Agarwal, Kairouz & Liu 2021, section 3).

    D_α ≤ α Δ₂² / 2μ + min(((2α − 1) Δ₂² + 6 Δ₁) / 4μ², 3 Δ₁ / 2μ)
    """
    order_A, one, two, variance = _integers(), mechanism.sensitivity_l1, mechanism.sensitivity_l2, mechanism.total_variance
    correction_A = np.minimum(((2 * order_A - 1) * two**2 + 6 * one) / (4 * variance**2), 3 * one / (2 * variance))
    return order_A * two**2 / (2 * variance) + correction_A


def tau(variance: float, clients: int) -> float:
    """τ, a bound on |log(P/Q)| for P the sum of n discrete Gaussians of parameter σ², and Q the one of parameter nσ².

    τ = 10 Σ_{k=1}^{n−1} exp(−2π² σ² k/(k + 1)), for σ² ≥ 1/4. Source: Kairouz, Liu & Steinke 2021, theorem 1.

    Args:
        variance: σ², of one client's share.
        clients: n.

    Raises:
        PrivacyError: the noise of one client is too small for the theorem.
    """
    if variance < 0.25:
        raise PrivacyError(f"discrete Gaussian shares of variance {variance:g}: must be at least 0.25; use a finer scale")
    share_K = np.arange(1, clients, dtype=np.float64)
    return 10.0 * float(np.exp(-2 * math.pi**2 * variance * share_K / (share_K + 1)).sum())


def _discrete_gaussian(mechanism: DiscreteGaussianSum) -> Divergences:
    """D_α at orders 2, 3, ..., ``_LARGEST`` (Kairouz, Liu & Steinke 2021, proposition 14 of arXiv:2102.06387).

    With s₁ = Δ₁/√(nσ²) and s₂ = Δ₂/√(nσ²):

    D_α ≤ min(α s₂²/2 + τ D,  α (s₂² + 2 τ s₁ + τ² D)/2,  α (s₂ + τ √D)²/2)
    """
    order_A, two = _integers(), mechanism.sensitivity_l2 / math.sqrt(mechanism.total_variance)
    far = tau(mechanism.variance, mechanism.clients)
    return np.minimum(order_A * two**2 / 2 + far * mechanism.dimension, order_A * discrete_gaussian_rho(mechanism))


def discrete_gaussian_rho(mechanism: DiscreteGaussianSum) -> float:
    """ρ with D_α ≤ ρ α for all α > 1, without sampling, from the two bounds of proposition 14 that are linear in α."""
    deviation, far = math.sqrt(mechanism.total_variance), tau(mechanism.variance, mechanism.clients)
    one, two = mechanism.sensitivity_l1 / deviation, mechanism.sensitivity_l2 / deviation
    together = two**2 + 2 * far * one + far**2 * mechanism.dimension
    return min(together, (two + far * math.sqrt(mechanism.dimension)) ** 2) / 2


def _integers() -> NDArray[np.float64]:
    return np.arange(2, _LARGEST + 1, dtype=np.float64)


def _sampled(full_A: NDArray[np.float64], sample_rate: float) -> Divergences:
    """D_α of noise that is symmetric about 0 after Poisson sampling, from D_2, D_3, ... without sampling.

    exp((α − 1) D'_α) = (1 − q)^(α−1) (1 + (α − 1) q) + Σ_{k=2}^α C(α, k) (1 − q)^(α−k) q^k exp((k − 1) D_k)

    for integer α. The other direction of the divergence is no larger, because mirroring the noise exchanges the two
    neighbours (Mironov, Talwar & Zhang 2019, theorem 5). Fractional orders are left out.
    """
    found = np.full_like(ORDERS, np.inf)
    for place in np.flatnonzero(_INTEGER_A):
        order = int(ORDERS[place])
        unsampled = full_A[order - 2]
        found[place] = unsampled if sample_rate == 1.0 else min(unsampled, _sampled_at(full_A, sample_rate, order))
    return found


def _sampled_at(full_A: NDArray[np.float64], rate: float, order: int) -> float:
    k = np.arange(2, order + 1, dtype=np.float64)
    binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms = binomial + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k - 1) * full_A[: order - 1]
    first = (order - 1) * math.log1p(-rate) + math.log1p((order - 1) * rate)
    return float(logsumexp(np.append(terms, first))) / (order - 1)
