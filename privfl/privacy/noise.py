"""Secure noise: Gaussian noise that a deployment may rely on, from the operating system's randomness, on any device.

Two things make textbook noise insecure. A statistical generator can be predicted from what it puts out, so here every
bit comes from AES-256-CTR (:mod:`privfl.privacy.streams`). And floating-point samples have gaps: the last bits of value + noise
tell which values were possible (Mironov 2012; for Gaussians Holohan & Braghin 2021, "Secure random sampling in
differential privacy"), so here both value and noise are integers on a grid, and the noise is a discrete Gaussian
(:mod:`privfl.privacy.integer_noise`), whose probabilities are right to the last digit.

For experiments that must be repeatable noise comes from :mod:`privfl.seeding` instead, which is not private against
whoever knows the seed.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from privfl.errors import PrivacyError
from privfl.privacy import integer_noise
from privfl.privacy.streams import RandomStream

# The step of the grid is at most this part of the noise's standard deviation.
_GRAIN: Final = 2.0**-20

# What the noise's variance exceeds the promised one by, in steps squared; see the guarantee.
_MARGIN: Final = 16


class SecureNoise:
    """Adds Gaussian noise to what is released.

    **Guarantees.** ``added(value, s)`` is, but for a factor within 1 ± 1e-100 in the probability of every output entry, a
    post-processing of the ideal Gaussian mechanism of standard deviation s on the value rounded to the grid. For let an
    ideal outcome y become a random integer k with probability ∝ exp(−(y − k)² / 2·16), all in steps of the grid: k has
    the distribution of the discrete Gaussian of variance s² + 16 around the value (Poisson's summation formula), and that
    is what is drawn. So every accountant's price of the Gaussian mechanism holds, at the noise multiplier of
    :func:`priced`, which allows for the rounding. The last addition and the conversion to the value's type are correctly
    rounded, that is, they are post-processing too.

    The generator's time depends on what is drawn (a table is searched); whoever can time it may learn a little.

    ================  =================================================================================================
    edge              what happens
    ================  =================================================================================================
    non-finite value  refused: whether it is finite would show
    an empty tensor   comes back as it is
    a huge value      beyond 2^32 standard deviations the sum is rounded more coarsely, as any float64
    ================  =================================================================================================

    Args:
        stream: where randomness comes from; None: a key from the operating system, which nobody keeps. A stream of a
            known key makes the noise known.
    """

    def __init__(self, stream: RandomStream | None = None) -> None:
        self._stream = stream or RandomStream.from_os()

    def added(self, value: Tensor, standard_deviation: float) -> Tensor:
        """The value plus noise on every entry; same shape, type and device.

        Args:
            value: floating point, any shape.
            standard_deviation: of the noise, positive.

        Raises:
            PrivacyError: the value is not finite or not floating point, or the standard deviation is not positive and finite.
        """
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise PrivacyError(f"a value of {value.dtype} that is not finite or not floating point: noise cannot hide it")
        step = grid_step(standard_deviation)
        steps = torch.round(value.to(torch.float64) / step)
        return ((steps + self._integers(value, standard_deviation / step)) * step).to(value.dtype)

    def _integers(self, like: Tensor, deviation: float) -> Tensor:
        sample = integer_noise.discrete_gaussian(deviation**2 + _MARGIN, like.numel(), self._stream)
        return torch.from_numpy(sample).to(like.device, torch.float64).reshape(like.shape)


def grid_step(standard_deviation: float) -> float:
    """The step of the grid: the power of two that is at most 2^-20 standard deviations, and more than half of that.

    Raises:
        PrivacyError: the standard deviation is not positive, or too small or large for a grid in float64.
    """
    if not 1e-250 < standard_deviation < 1e250:
        raise PrivacyError(f"noise of standard deviation {standard_deviation}: must be positive and finite")
    return float(2.0 ** math.floor(math.log2(standard_deviation * _GRAIN)))


def priced(noise_multiplier: float, dimension: int) -> float:
    """The noise multiplier that :meth:`SecureNoise.added` can be priced at.

    Rounding moves each of D entries by half a step at most, so that one unit moves the rounded sum by up to C + step √D; with
    the noise zC and a step of at most 2^-20 zC this is a noise multiplier of

    z' = z / (1 + 2^-20 z √D)

    Args:
        noise_multiplier: z, standard deviation of the noise over the clipping norm.
        dimension: D, entries of what is released.
    """
    return noise_multiplier / (1 + _GRAIN * noise_multiplier * math.sqrt(dimension))
