"""ε by PLD against exact δ: never below the truth, at any δ, and hardly above it."""

import functools
import math
import resource
import warnings

import mpmath
import numpy as np
import pytest
from contour import Contour, Part, contours, true_delta
from scipy.stats import norm

from privfl.errors import ConfigError, PrivacyError
from privfl.privacy import accounting, loss
from privfl.privacy.accounting import calibrate, curve, epsilon
from privfl.privacy.mechanisms import Gaussian, History, PoissonGaussian, Relation

# Relative from ε = 1 on. Below, absolute: exp(ε) is then off by a factor of 1.0002, which no use of ε can tell.
ABOVE = 2e-4

SEED, POINTS = 11, 60


def drawn(rng: np.random.Generator) -> tuple[History, float]:
    """One to three mechanisms and a δ, rates, noise, uses and δ on logarithmic scales."""
    relation: Relation = rng.choice(["add_or_remove_one", "replace_one"])

    def between(low: float, high: float) -> float:
        return float(10 ** rng.uniform(math.log10(low), math.log10(high)))

    uses: dict[Gaussian | PoissonGaussian, int] = {
        PoissonGaussian(between(1e-5, 1), between(0.3, 20), relation): int(between(1, 1e6))
        for _ in range(rng.choice([1, 1, 2, 3]))
    }
    if rng.random() < 0.2:
        uses[Gaussian(between(0.3, 20), relation)] = int(between(1, 1000))
    return History(uses), between(1e-14, 1e-3)


@functools.cache
def points() -> list[tuple[History, float]]:
    rng = np.random.default_rng(SEED)
    return [drawn(rng) for _ in range(POINTS)]


@pytest.mark.parametrize("number", range(POINTS))
def test_a_price_is_never_below_the_truth_and_hardly_above(number: int) -> None:
    history, delta = points()[number]
    price = epsilon(history, delta)
    assert true_delta(history, price) <= delta
    if delta >= 1e-10 and price > ABOVE:
        assert true_delta(history, price - ABOVE * max(1.0, price)) > delta
