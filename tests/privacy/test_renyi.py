"""The formulas of the integer mechanisms against Rényi divergences and hockey sticks of the very distributions."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import fftconvolve
from scipy.special import logsumexp

from privfl.errors import PrivacyError
from privfl.privacy import renyi
from privfl.privacy.accounting import epsilon
from privfl.privacy.mechanisms import DiscreteGaussianSum, History, PoissonGaussian, SkellamSum

Floats = NDArray[np.float64]
ORDERS = (2, 3, 5, 8, 16)


def at(divergences: Floats, order: int) -> float:
    return float(divergences[list(renyi.ORDERS).index(order)])


def log_skellam(variance: float, reach: int) -> Floats:
    return np.asarray(stats.skellam.logpmf(np.arange(-reach, reach + 1), variance / 2, variance / 2))


def log_sum_of_gaussians(variance: float, clients: int, reach: int) -> Floats:
    """log P of the sum of discrete Gaussians, by convolution."""
    k = np.arange(-reach, reach + 1)
    one = np.exp(-(k**2) / (2 * variance))
    one /= one.sum()
    total = one
    for _ in range(clients - 1):
        total = np.convolve(total, one)
    middle = len(total) // 2
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(total[middle - reach : middle + reach + 1]))


def moved(log_p: Floats, shift: int) -> tuple[Floats, Floats]:
    """log of the noise moved by ``shift``, and of the noise, where both are known."""
    return log_p[: len(log_p) - shift], log_p[shift:]


def divergence(log_p: Floats, log_q: Floats, order: int) -> float:
    return float(logsumexp(order * log_p - (order - 1) * log_q)) / (order - 1)


@pytest.mark.parametrize("shift", [(1,), (3,), (1, 1, 1), (4, 2), (5, 0, 1)])
@pytest.mark.parametrize("variance", [6.0, 30.0, 200.0])
def test_skellam_bound_holds_and_is_close(shift: tuple[int, ...], variance: float) -> None:
    one, two = float(sum(shift)), math.sqrt(sum(entry**2 for entry in shift))
    bound = renyi.divergences(SkellamSum(one, two, len(shift), variance / 6, 6))
    log_p = log_skellam(variance, math.ceil(14 * math.sqrt(variance)) + 30)
    for order in ORDERS:
        if order * max(shift) > 2 * math.sqrt(variance):
            continue
        exact = sum(divergence(*moved(log_p, entry), order) for entry in shift if entry)
        assert exact <= at(bound, order) * (1 + 1e-9)
        if variance >= 200:
            assert exact >= at(bound, order) * 0.9


def test_skellam_formula_by_hand() -> None:
    # Δ₁ = 4, Δ₂ = 2, α = 3, μ = 10: 3·4/20 + min((5·4 + 24)/400, 12/20)
    assert at(renyi.divergences(SkellamSum(4.0, 2.0, 4, 2.0, 5)), 3) == pytest.approx(0.6 + 0.11)
    # μ = 1, α = 2: 2·4/2 + min((3·4 + 24)/4, 12/2)
    assert at(renyi.divergences(SkellamSum(4.0, 2.0, 4, 0.5, 2)), 2) == pytest.approx(4 + 6)


@pytest.mark.parametrize("shift", [(1,), (2, 1), (1, 1, 1)])
@pytest.mark.parametrize(("variance", "clients"), [(0.25, 4), (0.5, 3), (1.0, 8), (4.0, 5)])
def test_discrete_gaussian_bound_holds(shift: tuple[int, ...], variance: float, clients: int) -> None:
    one, two = float(sum(shift)), math.sqrt(sum(entry**2 for entry in shift))
    bound = renyi.divergences(DiscreteGaussianSum(one, two, len(shift), variance, clients))
    log_p = log_sum_of_gaussians(variance, clients, math.ceil(8 * math.sqrt(variance * clients)))
    for order in ORDERS:
        if order * max(shift) > 3 * math.sqrt(variance * clients):
            continue
        exact = sum(divergence(*moved(log_p, entry), order) for entry in shift if entry)
        assert exact <= at(bound, order) * (1 + 1e-6)
        if variance >= 4:
            assert exact >= at(bound, order) * 0.999


def test_a_sum_of_narrow_discrete_gaussians_is_dearer_than_one() -> None:
    """τ is needed: without it the bound would be broken by the very distribution."""
    log_p = log_sum_of_gaussians(0.25, 2, 8)
    exact = divergence(*moved(log_p, 1), 4)
    without_tau = 4 / (2 * 0.25 * 2)
    assert exact > without_tau
    assert exact <= at(renyi.divergences(DiscreteGaussianSum(1.0, 1.0, 1, 0.25, 2)), 4)


def test_tau_is_the_sum_of_the_theorem() -> None:
    # 10 (e^{−2π²σ²/2} + e^{−2π²σ²·2/3}), σ² = 0.3
    expected = 10 * (math.exp(-(math.pi**2) * 0.3) + math.exp(-4 * math.pi**2 * 0.3 / 3))
    assert renyi.tau(0.3, 3) == pytest.approx(expected)
    assert renyi.tau(0.3, 1) == 0.0
    with pytest.raises(PrivacyError, match=r"must be at least 0\.25"):
        renyi.tau(0.2, 3)


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_sampled_bound_is_exact_in_the_worse_direction(rate: float) -> None:
    log_p = log_skellam(60.0, 150)
    with_unit, without = moved(log_p, 2)
    mixed = np.logaddexp(math.log(rate) + with_unit, math.log1p(-rate) + without)
    unsampled = np.array([divergence(with_unit, without, order) for order in range(2, renyi._LARGEST + 1)])
    found = renyi._sampled(unsampled, rate)
    for order in ORDERS:
        assert divergence(without, mixed, order) <= divergence(mixed, without, order) * (1 + 1e-9)
        assert at(found, order) == pytest.approx(divergence(mixed, without, order), rel=1e-6)


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.1), (0.2, 0.8), (0.5, 4.0)])
def test_sampled_gaussian_is_that_of_dp_accounting(rate: float, noise: float) -> None:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    orders = [2, 3, 7, 32, 64, 512]
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    theirs = RdpAccountant(orders).compose(event)._rdp
    ours = renyi.divergences(PoissonGaussian(rate, noise))
    assert [at(ours, order) for order in orders] == pytest.approx(list(theirs), rel=1e-9)


@pytest.mark.parametrize("releases", [1, 5])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_epsilon_is_above_the_hockey_stick_of_the_integer_distributions(releases: int, delta: float) -> None:
    """In one dimension the composed privacy loss can be counted out: every release moves the noise by 1 or not at all."""
    skellam = log_skellam(40.0, 80)
    gaussian = log_sum_of_gaussians(4.0, 10, 60)
    for mechanism, log_p in (
        (SkellamSum(1.0, 1.0, 1, 4.0, 10), skellam),
        (DiscreteGaussianSum(1.0, 1.0, 1, 4.0, 10), gaussian),
    ):
        bound = epsilon(History({mechanism: releases}), delta)
        exact = hockey_stick_epsilon(*moved(log_p, 1), releases, delta)
        assert exact <= bound <= 1.6 * exact


def hockey_stick_epsilon(log_p: Floats, log_q: Floats, releases: int, delta: float) -> float:
    """ε of independent releases: losses on a grid of 1e-4, rounded up."""
    kept = log_p > -60
    loss = np.ceil((log_p - log_q)[kept] * 1e4).astype(np.int64)
    one = np.bincount(loss - loss.min(), weights=np.exp(log_p[kept]))
    total = one
    for _ in range(releases - 1):
        total = np.maximum(fftconvolve(total, one), 0.0)
    losses = (np.arange(len(total)) + releases * loss.min()) / 1e4
    low, high = 0.0, 50.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        above = losses > middle
        if (total[above] * -np.expm1(middle - losses[above])).sum() <= delta:
            high = middle
        else:
            low = middle
    return high
