"""The integer samplers are exact: their tables against mpmath, their samples against the distributions and another sampler.

A χ² test here fails a correct sampler for one key in 10,000. The keys are fixed, so that a test that passes keeps passing.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privfl.errors import PrivacyError
from privfl.privacy import integer_noise
from privfl.privacy.integer_noise import discrete_gaussian, skellam
from privfl.privacy.streams import RandomStream

LEVEL = 1e-4
SAMPLES = 200_000

Pmf = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def gaussian_pmf(variance: float) -> Pmf:
    reach = np.arange(-math.ceil(12 * math.sqrt(variance)) - 5, math.ceil(12 * math.sqrt(variance)) + 6)
    total = np.exp(-(reach**2) / (2 * variance)).sum()
    return lambda k: np.exp(-(k**2) / (2 * variance)) / total


def skellam_pmf(variance: float) -> Pmf:
    return lambda k: np.asarray(stats.skellam.pmf(k, variance / 2, variance / 2))


def fit(sample: NDArray[np.int64], pmf: Pmf) -> float:
    """The p value of χ², with the values that are expected less than ten times in one class."""
    reach = np.arange(sample.min() - 50, sample.max() + 51)
    expected = pmf(reach) * len(sample)
    observed = np.bincount(sample - reach[0], minlength=len(reach)).astype(np.float64)
    often = expected >= 10
    rest = max(len(sample) - expected[often].sum(), 1e-9)
    together = np.append(observed[often], observed[~often].sum()), np.append(expected[often], rest)
    return (
        float(stats.chisquare(*together, sum_check=False).pvalue)
        if rest > 5
        else float(stats.chisquare(observed[often], expected[often] * observed[often].sum() / expected[often].sum()).pvalue)
    )


def stream(name: int) -> RandomStream:
    return RandomStream(name.to_bytes(32, "big"))


@pytest.mark.parametrize("variance", [0.05, 0.3, 1.7, 37.0, 1234.5])
def test_samples_follow_the_distribution(variance: float) -> None:
    assert fit(discrete_gaussian(variance, SAMPLES, stream(1)), gaussian_pmf(variance)) > LEVEL
    assert fit(skellam(variance, SAMPLES, stream(2)), skellam_pmf(variance)) > LEVEL


def test_the_test_sees_a_rounded_gaussian_and_the_other_distribution() -> None:
    rounded = np.rint(np.random.default_rng(0).normal(0, 1, SAMPLES)).astype(np.int64)
    assert fit(rounded, gaussian_pmf(1.0)) < LEVEL
    assert fit(discrete_gaussian(4.0, SAMPLES, stream(3)), skellam_pmf(4.0)) < LEVEL
    assert fit(skellam(4.0, SAMPLES, stream(4)), skellam_pmf(4.2)) < LEVEL


@pytest.mark.parametrize("bits", [3, 6, 10])
def test_samples_that_need_more_bits_follow_it_too(bits: int) -> None:
    """With so few bits at first, most samples are decided by the slow path, which otherwise one in 10^16 takes."""
    variance = Fraction(5, 2)
    drawn = integer_noise._inverted(integer_noise._gaussian_weights, variance, 20_000, stream(bits), bits)
    assert fit(drawn, gaussian_pmf(2.5)) > LEVEL
    other = integer_noise._inverted(integer_noise._poisson_weights, variance, 20_000, stream(bits + 1), bits)
    assert fit(other, lambda k: np.asarray(stats.poisson.pmf(k, 2.5))) > LEVEL


@pytest.mark.parametrize("variance", [0.01, 2.0, 1000.3])
@pytest.mark.parametrize("bits", [64, 128])
def test_every_entry_of_the_gaussian_table_is_right_to_the_last_bit(variance: float, bits: int) -> None:
    first, floors = integer_noise._floors(integer_noise._gaussian_weights, Fraction(variance), bits)
    # F(2) of so narrow a Gaussian differs from 1 in the 200th digit.
    with mpmath.workdps(400 if variance < 1 else 120):
        reach = 4 * abs(first) + 60
        weights = [mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(variance))) for k in range(-reach, reach + 1)]
        total = mpmath.fsum(weights)
        below = mpmath.fsum(weights[: reach + first])
        for floor, weight in zip(floors, weights[reach + first :], strict=False):
            below += weight
            assert floor == int(mpmath.floor(below / total * 2**bits))


@pytest.mark.parametrize("mean", [0.005, 1.0, 700.25])
def test_every_entry_of_the_poisson_table_is_right_to_the_last_bit(mean: float) -> None:
    first, floors = integer_noise._floors(integer_noise._poisson_weights, Fraction(mean), 64)
    with mpmath.workdps(120):
        weights = [
            mpmath.exp(k * mpmath.log(mpmath.mpf(mean)) - mpmath.mpf(mean) - mpmath.loggamma(k + 1))
            for k in range(first + len(floors))
        ]
        below = mpmath.fsum(weights[:first])
        for floor, weight in zip(floors, weights[first:], strict=True):
            below += weight
            assert floor == int(mpmath.floor(below * 2**64))


def test_a_table_reaches_as_far_as_its_bits() -> None:
    for weights in (integer_noise._gaussian_weights, integer_noise._poisson_weights):
        _, floors = integer_noise._floors(weights, Fraction(25), 64)
        assert floors[-1] == 2**64 - 1
        assert floors == sorted(floors)


def test_opendp_draws_the_same_distribution() -> None:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    theirs = dp.m.make_gaussian(dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float), scale=1.5)
    # OpenDP's randomness is the operating system's: at this level one run in a million fails by chance.
    sample = np.array(theirs([0] * 10_000))
    ours = discrete_gaussian(2.25, 100_000, stream(5))
    reach = np.arange(-4, 5)
    table = [[int((part == k).sum()) for k in reach] + [int((abs(part) > 4).sum())] for part in (sample, ours)]
    assert stats.chi2_contingency(table).pvalue > 1e-6


@pytest.mark.parametrize("sampler", [discrete_gaussian, skellam])
def test_moments_and_independence(sampler: Callable[[float, int, RandomStream], NDArray[np.int64]]) -> None:
    sample = sampler(400.0, SAMPLES, stream(6)).astype(np.float64)
    # Five standard errors each: a correct sampler fails for one key in a million.
    assert abs(sample.mean()) < 5 * 20 / math.sqrt(SAMPLES)
    assert abs(sample.var() / 400 - 1) < 5 * math.sqrt(2 / SAMPLES)
    assert abs(np.corrcoef(sample[1:], sample[:-1])[0, 1]) < 5 / math.sqrt(SAMPLES)
    other = sampler(400.0, SAMPLES, stream(7)).astype(np.float64)
    assert abs(np.corrcoef(sample, other)[0, 1]) < 5 / math.sqrt(SAMPLES)


def test_a_key_fixes_the_samples_and_a_stream_goes_on() -> None:
    first, second = stream(8), stream(8)
    assert np.array_equal(skellam(9.0, 100, first), skellam(9.0, 100, second))
    assert not np.array_equal(skellam(9.0, 100, first), skellam(9.0, 100, stream(8)))


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, 1e14])
def test_variances_that_cannot_be_drawn_are_refused(variance: float) -> None:
    for sampler in (discrete_gaussian, skellam):
        with pytest.raises(PrivacyError, match="must be above 0 and at most"):
            sampler(variance, 1, stream(0))


def test_wide_gaussians_are_put_together_from_two() -> None:
    variance = 2.0**41 + 0.7
    wide = discrete_gaussian(variance, SAMPLES, stream(9))
    assert stats.kstest(wide / math.sqrt(variance), "norm").pvalue > LEVEL
    # Every digit of base 64 is as likely as any other: nothing of how the sample was put together shows.
    for unit in (1, 64, 4096):
        assert stats.chisquare(np.bincount(wide // unit % 64, minlength=64)).pvalue > LEVEL


def test_two_samples_make_the_distribution_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolution that wide Gaussians rest on, at a size at which it can be counted out."""
    weights = integer_noise._gaussian_weights
    lower, unit, total = 256, 4, 2048
    upper = Fraction(total - lower, unit**2)
    first, second = weights(upper, 80), weights(Fraction(lower), 80)
    spread = np.zeros((len(first.weight_K) - 1) * unit + 1)
    spread[::unit] = np.array(first.weight_K, np.float64) / float(sum(first.weight_K))
    found = np.convolve(spread, np.array(second.weight_K, np.float64) / float(sum(second.weight_K)))
    k = np.arange(len(found)) + unit * first.first + second.first
    middle = np.abs(k) < 6 * math.sqrt(total)
    assert found[middle] == pytest.approx(gaussian_pmf(total)(k)[middle], rel=1e-11)
    monkeypatch.setattr(integer_noise, "_ONE_TABLE", 1024)
    monkeypatch.setattr(integer_noise, "_UNIT", unit)
    monkeypatch.setattr(integer_noise, "_LOWER", lower)
    assert fit(discrete_gaussian(float(total), SAMPLES, stream(10)), gaussian_pmf(total)) > LEVEL


def test_none_at_all() -> None:
    assert discrete_gaussian(1.0, 0, stream(0)).shape == (0,)
