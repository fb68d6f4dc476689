"""Noised statistics of a pool: sums of clipped vectors, and the median of norms, each a Gaussian release."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_OCTAVES, _PER_OCTAVE = 16, 16
"""Norms are counted in bins of equal ratio, 16 to a factor of two, from 2^-16 to 2^16."""

Numbers = NDArray[np.float64]


def noised_mean(values_NF: Numbers, clip: float, noise_multiplier: float, generator: np.random.Generator) -> Numbers:
    """The mean of N vectors, each scaled down to a norm of ``clip``, with noise on their sum.

    **Guarantees.** Adding or removing one vector changes the sum by at most ``clip`` in L2. The noise has standard deviation
    ``noise_multiplier * clip``. N is public.

    Returns:
        shape (F,).
    """
    norms_N = np.linalg.norm(values_NF, axis=1)
    factors_N = np.minimum(1.0, clip / np.maximum(norms_N, np.finfo(np.float64).tiny))
    noise_F = generator.normal(0.0, noise_multiplier * clip, values_NF.shape[1])
    mean_F: Numbers = (factors_N @ values_NF + noise_F) / len(values_NF)
    return mean_F


def noised_median(norms_N: Numbers, noise_multiplier: float, generator: np.random.Generator) -> float:
    """About the median of N norms: the upper edge of the bin in which a noised, cumulative histogram passes N / 2.

    **Guarantees.** One norm is in one bin, so adding or removing it changes the histogram by 1 in L2; the noise on each bin has
    standard deviation ``noise_multiplier``. The rank that is found differs from N / 2 by about 16 × ``noise_multiplier``.
    """
    bins = 2 * _OCTAVES * _PER_OCTAVE
    with np.errstate(divide="ignore"):
        place_N = np.floor((np.log2(norms_N) + _OCTAVES) * _PER_OCTAVE)
    counts = np.bincount(np.clip(place_N, 0, bins - 1).astype(np.int64), minlength=bins)
    below = np.cumsum(counts + generator.normal(0.0, noise_multiplier, bins))
    passed = int(np.argmax(below >= len(norms_N) / 2)) if (below >= len(norms_N) / 2).any() else bins - 1
    return float(2.0 ** ((passed + 1) / _PER_OCTAVE - _OCTAVES))


def noised_covariance(values_NF: Numbers, noise_multiplier: float, generator: np.random.Generator) -> Numbers:
    """Σ a aᵀ over N vectors scaled to norm 1, with symmetric noise, shape (F, F).

    **Guarantees.** Adding or removing one vector changes the matrix by ‖a aᵀ‖ ≤ 1 in L2. Each of its F² entries has independent
    noise of standard deviation ``noise_multiplier``. The mean of the result and its transpose is a post-processing, as in the
    code of Abadi et al. 2016 (tensorflow/models, dp_pca.py).
    """
    norms_N = np.linalg.norm(values_NF, axis=1)
    units_NF = values_NF / np.where(norms_N > 0, norms_N, 1.0)[:, None]
    features = values_NF.shape[1]
    noised = units_NF.T @ units_NF + generator.normal(0.0, noise_multiplier, (features, features))
    symmetric: Numbers = (noised + noised.T) / 2
    return symmetric
