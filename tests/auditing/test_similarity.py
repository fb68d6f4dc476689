"""PSNR, SSIM, assignment and the median's interval, against closed forms and against their definitions, place by place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from privfl.auditing.similarity import MOST_DECIBELS, assigned, median, psnr, psnr_table, ssim


def test_psnr_is_that_of_the_mean_squared_error() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random((4, 6)), generator.random((3, 6))
    table = psnr_table(first, second)
    assert table.shape == (4, 3)
    for r, t in itertools.product(range(4), range(3)):
        assert table[r, t] == pytest.approx(-10 * np.log10(np.mean((first[r] - second[t]) ** 2)), abs=1e-9)
        assert psnr(first[r, None], second[t, None])[0] == pytest.approx(table[r, t], abs=1e-9)
    # An error of a tenth of the range everywhere is 20 dB, whatever the range is.
    assert psnr(np.full((1, 5), 30.0), np.full((1, 5), 5.0), 250.0) == pytest.approx(20)
    assert psnr(np.ones((1, 2)), np.array([[1.0, 3.0]]), np.array([1.0, 20.0])) == pytest.approx(-10 * np.log10(0.005))
    assert psnr(first, first) == pytest.approx(MOST_DECIBELS)
    for broken in (np.nan, np.inf, -np.inf):
        assert psnr(np.full((1, 6), broken), second[:1]) == -MOST_DECIBELS
        assert (psnr_table(np.full((1, 6), broken), second) == -MOST_DECIBELS).all()


def by_definition(x: np.ndarray, y: np.ndarray, side: int, scale: float) -> float:
    """SSIM of two grey images, one window after another."""
    at = np.arange(side) - side // 2
    weights = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for i, j in itertools.product(*(range(length - side + 1) for length in x.shape)):
        a, b = x[i : i + side, j : j + side], y[i : i + side, j : j + side]
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
        covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
        c1, c2 = (0.01 * scale) ** 2, (0.03 * scale) ** 2
        found.append((2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize(("side", "window"), [(16, 11), (11, 11), (8, 7), (3, 3)])
def test_ssim_is_its_definition(side: int, window: int) -> None:
    generator = np.random.default_rng(1)
    x, y = generator.random((2, 3, side, side)), generator.random((2, 3, side, side))
    y[1] = 0.7 * x[1] + 0.1
    wanted = [np.mean([by_definition(x[n, c], y[n, c], window, 1.0) for c in range(3)]) for n in range(2)]
    assert ssim(x, y) == pytest.approx(wanted, abs=1e-10)
    assert ssim(255 * x, 255 * y, 255.0) == pytest.approx(wanted, abs=1e-10)
    assert ssim(x, x) == pytest.approx(np.ones(2))
    # Two flat images differ by their means alone: (2ab + C1) / (a² + b² + C1).
    flat = ssim(np.full((1, 1, side, side), 0.2), np.full((1, 1, side, side), 0.6))
    assert flat == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))


def test_the_assignment_is_the_best_of_all() -> None:
    generator = np.random.default_rng(2)
    for rows, columns in ((3, 5), (5, 3), (4, 4)):
        likeness = generator.random((rows, columns))
        chosen = assigned(likeness)
        wide = likeness if rows <= columns else likeness.T
        orders = itertools.permutations(range(wide.shape[1]), wide.shape[0])
        best = max(sum(wide[row, column] for row, column in enumerate(order)) for order in orders)
        assert likeness[chosen].sum() == pytest.approx(best)
        assert len(set(chosen[0])) == len(set(chosen[1])) == min(rows, columns)
    assert all(len(one) == 0 for one in assigned(np.zeros((0, 4))))


def test_the_interval_of_a_median_holds_as_often_as_it_says() -> None:
    # For n = 20 and .95 textbooks name the 6th and the 15th value.
    found = median(np.arange(1.0, 21.0))
    assert (found.value, found.low, found.high, found.level) == (10.5, 6.0, 15.0, 0.95)
    assert (median(np.arange(6.0)).low, median(np.arange(6.0)).high) == (0.0, 5.0)
    few = median(np.array([3.0, 1.0, 2.0]))
    assert (few.value, few.low, few.high, few.level) == (2.0, 1.0, 3.0, 0.75)
    assert (median(np.array([4.0])).low, median(np.array([4.0])).level) == (4.0, 0.0)
    generator = np.random.default_rng(3)
    held = [median(generator.exponential(size=31)) for _ in range(2000)]
    # At least .95 by theory; 3 standard errors below that is .935. By chance this fails once in 700 seeds at most.
    assert np.mean([one.low <= np.log(2) <= one.high for one in held]) > 0.935
