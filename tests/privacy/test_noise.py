"""Secure noise: a Gaussian on a grid, on which the value lies too; nobody's randomness twice."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from privfl.errors import PrivacyError
from privfl.privacy.noise import SecureNoise, grid_step, priced_noise_multiplier
from privfl.privacy.streams import RandomStream

N = 100_000


def seeded(name: int) -> SecureNoise:
    return SecureNoise(RandomStream(bytes([name]) * 32))


@pytest.mark.parametrize("deviation", [1e-6, 0.7, 3.0, 1e5])
def test_noise_is_gaussian(deviation: float) -> None:
    noise = seeded(1).added(torch.zeros(N, dtype=torch.float64), deviation).numpy()
    # Each of the two fails a correct sampler for one key in 10,000; the key is fixed.
    assert stats.kstest(noise / deviation, "norm").pvalue > 1e-4
    edges = stats.norm.ppf(np.linspace(0, 1, 101)[1:-1])
    assert stats.chisquare(np.bincount(np.searchsorted(edges, noise / deviation), minlength=100)).pvalue > 1e-4
    assert abs(noise.var() / deviation**2 - 1) < 5 * math.sqrt(2 / N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_is_kept_in_the_mean(dtype: torch.dtype) -> None:
    value = torch.linspace(-5, 5, N, dtype=dtype)
    noised = seeded(2).added(value, 0.5)
    assert noised.dtype == dtype
    assert noised.shape == value.shape
    assert abs(float((noised - value).mean())) < 5 * 0.5 / math.sqrt(N)


def test_the_last_bits_tell_nothing_about_the_value() -> None:
    """Mironov's attack: of the outcomes of two values, some would be possible for one of them only."""
    step = grid_step(1.0)
    for value in (0.0, math.pi * 1e-7, 1 / 3):
        outcomes = seeded(3).added(torch.full((N,), value, dtype=torch.float64), 1.0) / step
        assert torch.equal(outcomes, outcomes.round())
        last = (outcomes.to(torch.int64) % 16).numpy()
        assert stats.chisquare(np.bincount(last, minlength=16)).pvalue > 1e-4
    # Plain floating-point noise tells the two apart at once.
    plain = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1 / 3
    assert not torch.equal(plain / step, (plain / step).round())


def test_no_randomness_is_used_twice() -> None:
    zeros = torch.zeros(1000)
    first, second = SecureNoise(), SecureNoise()
    drawn = torch.stack([first.added(zeros, 1.0), first.added(zeros, 1.0), second.added(zeros, 1.0)])
    # Two equal entries out of 3,000 on a grid of a million steps a deviation are rare, equal rows impossible.
    assert all(int((drawn[a] == drawn[b]).sum()) < 5 for a, b in ((0, 1), (0, 2), (1, 2)))
    long = torch.zeros(N)
    one, other = seeded(4), seeded(5)
    pair = np.corrcoef(one.added(long, 1.0), other.added(long, 1.0))[0, 1]
    again = np.corrcoef(one.added(long, 1.0), one.added(long, 1.0))[0, 1]
    # Five standard errors.
    assert max(abs(pair), abs(again)) < 5 / math.sqrt(N)


def test_a_known_key_gives_known_noise() -> None:
    value = torch.ones(3, 4)
    assert torch.equal(seeded(6).added(value, 1.0), seeded(6).added(value, 1.0))


@pytest.mark.parametrize("deviation", [1e-200, 1e-3, 0.999, 1.0, 7.0, 1e200])
def test_the_grid_is_as_fine_as_promised(deviation: float) -> None:
    step = grid_step(deviation)
    assert math.frexp(step)[0] == 0.5
    assert 2**-21 < step / deviation <= 2**-20


@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 10.0])
def test_price_allows_for_the_rounding(noise_multiplier: float) -> None:
    """The rounded sums of two neighbours, one unit of norm C apart, in the worst place of the grid."""
    dimension, clip = 10_000, 2.0
    step = grid_step(noise_multiplier * clip)
    generator = np.random.default_rng(0)
    priced_sensitivity = noise_multiplier * clip / priced_noise_multiplier(noise_multiplier, dimension)
    for _ in range(20):
        base = generator.normal(size=dimension)
        direction = generator.normal(size=dimension)
        unit = base + clip * direction / np.linalg.norm(direction)
        moved = np.linalg.norm(np.rint(unit / step) - np.rint(base / step)) * step
        assert moved <= priced_sensitivity
    # Every entry may be rounded in the bad direction.
    entry = clip / math.sqrt(dimension)
    base = np.full(dimension, math.ceil(0.5 / step) * step - 0.499 * step)
    extra = base + math.ceil(entry / step) * step - entry
    moved = np.linalg.norm(np.rint((extra + entry) / step) - np.rint(base / step)) * step
    assert moved <= priced_sensitivity + 1e-9
    assert priced_noise_multiplier(noise_multiplier, dimension) < noise_multiplier


@pytest.mark.parametrize("value", [torch.tensor([1.0, math.nan]), torch.tensor([math.inf]), torch.tensor([1])])
def test_what_noise_cannot_hide_is_refused(value: torch.Tensor) -> None:
    with pytest.raises(PrivacyError, match="must be finite floats"):
        SecureNoise().added(value, 1.0)


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_refused(deviation: float) -> None:
    with pytest.raises(PrivacyError, match="must be between 1e-250 and 1e250"):
        SecureNoise().added(torch.zeros(3), deviation)


def test_huge_values_and_none() -> None:
    assert float(seeded(7).added(torch.tensor(1e30), 1.0)) == pytest.approx(1e30)
    assert seeded(7).added(torch.zeros(0, 3), 1.0).shape == (0, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_noise_on_a_gpu_is_that_of_the_cpu() -> None:
    value = torch.linspace(-1, 1, 1000)
    assert torch.equal(seeded(8).added(value.cuda(), 1.0).cpu(), seeded(8).added(value, 1.0))
