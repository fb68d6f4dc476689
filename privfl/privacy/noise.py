"""Secure noise: Gaussian noise that a deployment may rely on, from the operating system's randomness, on any device.

Textbook noise is insecure for two reasons. First, the output of a statistical generator predicts its next values; here every
bit comes from AES-256-CTR (:mod:`privfl.privacy.streams`). Second, floating-point samples have gaps, so the last bits of
value + noise tell which values were possible (Mironov 2012; for Gaussians Holohan & Braghin 2021, "Secure random sampling in
differential privacy"); here value and noise are integers on a grid, and the noise is a discrete Gaussian
(:mod:`privfl.privacy.integer_noise`).

Experiments that must be repeatable take their noise from :mod:`privfl.seeding` instead. That noise is not private against
anybody who knows the seed.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from privfl.errors import PrivacyError
from privfl.privacy import integer_noise
from privfl.privacy.streams import RandomStream

# Largest grid step, as a fraction of the noise's standard deviation.
_GRAIN: Final = 2.0**-20

# Variance added to the promised one, in grid steps squared; the guarantee below uses it.
_MARGIN: Final = 16


class SecureNoise:
    """Gaussian mechanism that is safe against floating-point attacks: adds noise to a value before its release.

    **Guarantees.** ``added(value, s)`` is a post-processing of the ideal Gaussian mechanism of standard deviation s on the
    value rounded to the grid, up to a factor within 1 ± 1e-100 in the probability of every output entry. Proof, in steps of
    the grid: turn an ideal outcome y into a random integer k with probability ∝ exp(−(y − k)² / 2·16). Then k is a discrete
    Gaussian of variance s² + 16 around the value (Poisson's summation formula), which is the distribution drawn here. So
    every accountant's price of the Gaussian mechanism holds at :func:`priced_noise_multiplier`, which allows for the rounding
    of the value. The last addition and the conversion to the value's type are correctly rounded, so they are
    post-processing too.

    The running time depends on the values drawn, since a table is searched; an adversary that can time it may learn a little.

    ================  =================================================================================================
    edge              result
    ================  =================================================================================================
    non-finite value  refused, because no noise hides that it is not finite
    an empty tensor   returned as it is
    a huge value      beyond 2^32 standard deviations float64 rounds the sum more coarsely than the grid
    ================  =================================================================================================

    Args:
        stream: source of randomness; None: a key from the operating system that is not kept. A stream whose key is known
            makes the noise known.
    """

    def __init__(self, stream: RandomStream | None = None) -> None:
        self._stream = stream or RandomStream.from_os()

    def added(self, value: Tensor, standard_deviation: float) -> Tensor:
        """The value plus independent noise on every entry; same shape, type and device.

        Args:
            value: floating point, any shape.
            standard_deviation: of the noise, positive.

        Raises:
            PrivacyError: the value is not finite or not floating point, or the standard deviation is not positive and finite.
        """
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise PrivacyError(
                f"a value of {value.dtype}: must be finite floats for noise to hide it; convert it, or send zeros"
            )
        step = grid_step(standard_deviation)
        steps = torch.round(value.to(torch.float64) / step)
        return ((steps + self._integers(value, standard_deviation / step)) * step).to(value.dtype)

    def _integers(self, like: Tensor, deviation: float) -> Tensor:
        sample = integer_noise.discrete_gaussian(deviation**2 + _MARGIN, like.numel(), self._stream)
        return torch.from_numpy(sample).to(like.device, torch.float64).reshape(like.shape)


def grid_step(standard_deviation: float) -> float:
    """Step of the grid: the largest power of two that is at most 2^-20 standard deviations.

    Raises:
        PrivacyError: the standard deviation is not positive, or too small or large for a grid in float64.
    """
    if not 1e-250 < standard_deviation < 1e250:
        raise PrivacyError(
            f"noise of standard deviation {standard_deviation}: must be between 1e-250 and 1e250; change the norm"
        )
    return float(2.0 ** math.floor(math.log2(standard_deviation * _GRAIN)))


def priced_noise_multiplier(noise_multiplier: float, dimension: int) -> float:
    """Noise multiplier at which :meth:`SecureNoise.added` can be priced.

    Rounding moves each of D entries by at most half a step, so one unit moves the rounded sum by up to C + step √D. With
    noise zC and a step of at most 2^-20 zC the noise multiplier is

    z' = z / (1 + 2^-20 z √D)

    Args:
        noise_multiplier: z, standard deviation of the noise over the clipping norm C.
        dimension: D, number of entries of the released sum.
    """
    return noise_multiplier / (1 + _GRAIN * noise_multiplier * math.sqrt(dimension))
