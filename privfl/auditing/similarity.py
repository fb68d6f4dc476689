"""How like are reconstructed inputs to true ones: PSNR, SSIM, and the pairs that an assignment makes of them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from privfl.records import Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOST_DECIBELS: Final = 100.0
"""The PSNR of an error of 1e-10 of the range squared, and of every smaller one: float32 resolves no better."""

_SIDE: Final = 11
"""The side of the window of SSIM, in pixels."""

_WIDTH: Final = 1.5
"""The standard deviation of that window, in pixels."""


def psnr(first_nD: Any, second_nD: Any, scale: Any = 1.0) -> FloatArray:
    """The peak signal-to-noise ratio of n pairs of inputs in dB, shape (n,): −10 log10 of the mean squared error.

    Args:
        first_nD: n inputs, of shape (n, D).
        second_nD: n more.
        scale: the range of a number, one for all or one for each of D; the error is divided by it.

    Returns:
        at most :data:`MOST_DECIBELS`, and at least minus that, which an input has that is not finite.
    """
    with np.errstate(all="ignore"):
        off_nD = (np.asarray(first_nD, dtype=np.float64) - np.asarray(second_nD, dtype=np.float64)) / scale
        return _decibels(np.square(off_nD).mean(1))


def psnr_table(first_RD: Any, second_TD: Any, scale: Any = 1.0) -> FloatArray:
    """The same of each of R inputs with each of T, shape (R, T)."""
    with np.errstate(all="ignore"):
        first_RD, second_TD = (np.asarray(one, dtype=np.float64) / scale for one in (first_RD, second_TD))
        squares_RT = np.square(first_RD).sum(1)[:, None] + np.square(second_TD).sum(1) - 2 * first_RD @ second_TD.T
        return _decibels(squares_RT / max(1, first_RD.shape[1]))


def _decibels(errors: FloatArray) -> FloatArray:
    least, most = 10 ** (-MOST_DECIBELS / 10), 10 ** (MOST_DECIBELS / 10)
    return np.asarray(-10 * np.log10(np.clip(np.where(np.isnan(errors), most, errors), least, most)))


def ssim(first_nCHW: Any, second_nCHW: Any, scale: float = 1.0) -> FloatArray:
    """The structural similarity of n pairs of images, shape (n,), 1 if they are equal (Wang et al. 2004, equation 13).

    The window is a Gaussian of standard deviation 1.5 and 11 by 11 pixels, or the largest odd side that fits into the image;
    K1 = .01, K2 = .03. The mean is over all places where the window lies within the image, and over channels.

    Args:
        first_nCHW: n images.
        second_nCHW: n more.
        scale: the range of a pixel.
    """
    x, y = (np.asarray(one, dtype=np.float64) for one in (first_nCHW, second_nCHW))
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * scale) ** 2, (0.03 * scale) ** 2
    # ((2 µx µy + C1) (2 σxy + C2)) / ((µx² + µy² + C1) (σx² + σy² + C2))
    found = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return np.asarray(found.mean(axis=(1, 2, 3)))


def _windowed(images_nCHW: FloatArray) -> FloatArray:
    """The Gaussian means around all places at which the window lies within the image."""
    for axis in (2, 3):
        side = min(_SIDE, (images_nCHW.shape[axis] - 1) // 2 * 2 + 1)
        weights = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * _WIDTH**2))
        windows = np.lib.stride_tricks.sliding_window_view(images_nCHW, side, axis=axis)
        images_nCHW = windows @ (weights / weights.sum())
    return images_nCHW


def assigned(likeness_RT: FloatArray) -> tuple[IntArray, IntArray]:
    """The min(R, T) pairs whose likeness is largest in sum: the rows and the columns of the pairs."""
    rows, columns = linear_sum_assignment(likeness_RT, maximize=True)
    return np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64)


def median(values_n: FloatArray, level: float = 0.95) -> Interval:
    """The median and its interval between order statistics, which holds for any distribution (at least one value).

    Below six values no interval has the level of .95; it is the range of all of them, and ``level`` says how often that holds.
    """
    ordered, n = np.sort(values_n), len(values_n)
    # P[Bin(n, 1/2) < k] is the chance that the k-th smallest value lies above the median.
    k = int(binom.ppf((1 - level) / 2, n, 0.5))
    k = k if binom.cdf(k - 1, n, 0.5) <= (1 - level) / 2 else k - 1
    held = level if k >= 1 else 1 - 2.0 ** (1 - n)
    k = max(k, 1)
    low, high = float(ordered[k - 1]), float(ordered[n - k])
    return Interval(value=float(np.median(ordered)), low=low, high=high, n=n, level=held)
