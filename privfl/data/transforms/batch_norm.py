"""Normalisation of each channel by the pool's mean and variance, with noise that the promise pays for."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from privfl.data.federated import LoadedData
from privfl.data.transforms import Transform, inputs, with_inputs
from privfl.data.transforms._statistics import Numbers, noised_mean, noised_median
from privfl.seeding import Seed

_LEAST_VARIANCE = 1e-5
_BATCH = 4096


class BatchNorm(Transform):
    """Each channel of all inputs gets about mean 0 and variance 1 over the pool: (x − m) / √(v + 1e-5).

    Every example gives two vectors: the means of its channels over positions, and the means of their squares. The vectors of
    each kind are clipped to the median of their norms and summed with noise (Tramèr & Boneh 2021, appendix B, which takes the
    medians without noise). Here the medians come from noised histograms, so that the whole costs four Gaussian releases. A
    channel whose variance comes out as 0 is set to 0.

    Args:
        noise_multiplier: of the two sums; None: exact means and variances, which no promise allows.
        median_noise_multiplier: of the two histograms; None: five times ``noise_multiplier``.
    """

    reads_pool: ClassVar[bool] = True

    noise_multiplier: PositiveFloat | None = None
    median_noise_multiplier: PositiveFloat | None = None

    def apply(self, loaded: LoadedData, stream: Seed) -> LoadedData:
        """See the contract: (N, C, ...) -> (N, C, ...)."""
        train, test = inputs(loaded, self.kind)
        mean_C, square_C, spent = self._moments(train, stream.numpy())
        variance_C = np.maximum(square_C - mean_C**2, 0.0)
        scale_C = np.where(variance_C > 0, 1 / np.sqrt(variance_C + _LEAST_VARIANCE), 0.0)
        normalised = with_inputs(loaded, _scaled(train, mean_C, scale_C), _scaled(test, mean_C, scale_C))
        return replace(normalised, statistics=(*loaded.statistics, *spent))

    def _moments(self, x: NDArray[np.float32], generator: np.random.Generator) -> tuple[Numbers, Numbers, tuple[float, ...]]:
        """Mean and mean square of each channel, and the noise multipliers that they cost."""
        moments = [_over_positions(x, power) for power in (1, 2)]
        if self.noise_multiplier is None:
            return moments[0].mean(axis=0), moments[1].mean(axis=0), ()
        of_median = self.median_noise_multiplier or 5 * self.noise_multiplier
        means = []
        for values_NC in moments:
            clip = noised_median(np.linalg.norm(values_NC, axis=1), of_median, generator)
            means.append(noised_mean(values_NC, clip, self.noise_multiplier, generator))
        return means[0], means[1], (of_median, self.noise_multiplier) * 2

    def words(self) -> str:
        """See the contract."""
        noise = "without noise" if self.noise_multiplier is None else f"with noise multiplier {self.noise_multiplier:g}"
        return f"normalisation of each channel by mean and variance of the pool, {noise}"


def _over_positions(x: NDArray[np.float32], power: int) -> Numbers:
    """The mean over positions of a power of each channel, shape (N, C), float64; batch by batch, to save memory."""
    found = np.empty(x.shape[:2])
    for begin in range(0, len(x), _BATCH):
        part = x[begin : begin + _BATCH].astype(np.float64) ** power
        found[begin : begin + _BATCH] = part.reshape(*part.shape[:2], -1).mean(axis=2)
    return found


def _scaled(x: NDArray[np.float32], mean_C: Numbers, scale_C: Numbers) -> NDArray[np.float32]:
    each = (-1, *(1,) * (x.ndim - 2))
    scaled: NDArray[np.float32] = x * scale_C.astype(np.float32).reshape(each)
    scaled -= (mean_C * scale_C).astype(np.float32).reshape(each)
    return scaled
