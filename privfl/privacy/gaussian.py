"""Gaussian noise for sums of clipped vectors, and a check that the noise drawn is as large as the ledger records."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from privfl.errors import PrivacyError
from privfl.privacy.noise import SecureNoise, priced_noise_multiplier
from privfl.privacy.streams import RandomStream
from privfl.seeding import Seed

Randomness = Literal["seeded", "secure"]
"""Source of the noise: the run's seed, whose owner can subtract the noise, or the operating system."""


def gaussian(size: int, deviation: float, stream: Seed, device: torch.device) -> Tensor:
    """``size`` independent Gaussian samples of standard deviation ``deviation``, float64, from the stream alone."""
    generator = stream.torch(device)
    return torch.randn(size, generator=generator, device=device, dtype=torch.float64) * deviation


def noised(value_D: Tensor, noise_multiplier: float, norm: float, stream: Seed, randomness: Randomness) -> Tensor:
    """A sum of vectors of L2 norm at most ``norm``, plus Gaussian noise of deviation ``noise_multiplier * norm``; float64.

    **Guarantees.** The result may be priced at ``noise_multiplier``. With ``seeded`` noise, anybody who knows the seed can
    subtract the noise, and the guarantee neglects the rounding of floats (Mironov 2012). With ``secure`` noise, the
    guarantees of :class:`privfl.privacy.noise.SecureNoise` hold if the root of the stream is from the operating system.

    Raises:
        PrivacyError: the noise that was added is smaller than the noise that is accounted.
    """
    exact_D = value_D.double()
    if randomness == "secure":
        secure = SecureNoise(RandomStream(stream.key()))
        result_D = secure.added(exact_D, drawn_noise_multiplier(noise_multiplier, len(exact_D)) * norm)
    else:
        result_D = exact_D + gaussian(len(exact_D), noise_multiplier * norm, stream, exact_D.device)
    require_noise(result_D - exact_D, noise_multiplier * norm)
    return result_D


def drawn_noise_multiplier(noise_multiplier: float, dimension: int) -> float:
    """Noise multiplier at which to draw secure noise, so that it can be priced at ``noise_multiplier``.

    It is the inverse of :func:`privfl.privacy.noise.priced_noise_multiplier`: z / (1 − 2⁻²⁰ z √D).

    Raises:
        PrivacyError: the grid is too coarse for this noise in so many dimensions.
    """
    # priced_noise_multiplier(z) = z / (1 + g z), with g = 2⁻²⁰ √D
    grain = 1 / priced_noise_multiplier(1.0, dimension) - 1
    if grain * noise_multiplier >= 1:
        raise PrivacyError(
            f"secure noise of multiplier {noise_multiplier:g} in {dimension} dimensions: must be below {1 / grain:g}; lower it"
        )
    return noise_multiplier / (1 - grain * noise_multiplier)


def require_noise(noise_D: Tensor, accounted: float) -> None:
    """Raise if the noise that was added is smaller than the noise that is accounted.

    The root mean square of n Gaussian draws is more than a relative 7/√(2n) below their standard deviation with a
    probability of about 1e-12. Below 100 draws this limit says little, and the check finds little more than missing noise.

    Args:
        noise_D: the noise, measured on the result: after minus before.
        accounted: the standard deviation that the ledger will record.

    Raises:
        PrivacyError: the noise is too small, or is not finite.
    """
    drawn = math.sqrt(float(noise_D.double().square().mean()))
    if not drawn >= accounted * max(1 - 7 / math.sqrt(2 * noise_D.numel()), 1e-9):
        raise PrivacyError(f"noise of standard deviation {drawn:g} was drawn, {accounted:g} is accounted; nothing was sent")
