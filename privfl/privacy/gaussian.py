"""Drawing Gaussian noise, and seeing to it that as much was drawn as is accounted."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from privfl.errors import PrivacyError
from privfl.privacy.noise import SecureNoise, priced
from privfl.privacy.streams import RandomStream
from privfl.seeding import Seed

Randomness = Literal["seeded", "secure"]
"""Noise from the run's seed, which whoever knows it can subtract; or from the operating system."""


def gaussian(size: int, deviation: float, stream: Seed, device: torch.device) -> Tensor:
    """``size`` independent Gaussians of that standard deviation, in float64, from the stream alone."""
    generator = stream.torch(device)
    return torch.randn(size, generator=generator, device=device, dtype=torch.float64) * deviation


def noised(value_D: Tensor, noise_multiplier: float, norm: float, stream: Seed, randomness: Randomness) -> Tensor:
    """A sum of vectors of that L2 norm, plus Gaussian noise of standard deviation ``noise_multiplier * norm``; float64.

    **Guarantees.** The result may be priced at ``noise_multiplier``. Seeded, whoever knows the seed can take the noise
    off, and the rounding of floats (Mironov 2012) is neglected. Secure, those of :class:`privfl.privacy.noise.SecureNoise`
    hold, as long as the stream's root is from the operating system.

    Raises:
        PrivacyError: less was added than is accounted.
    """
    exact_D = value_D.double()
    if randomness == "secure":
        secure = SecureNoise(RandomStream(stream.key()))
        result_D = secure.added(exact_D, widened(noise_multiplier, len(exact_D)) * norm)
    else:
        result_D = exact_D + gaussian(len(exact_D), noise_multiplier * norm, stream, exact_D.device)
    require_noise(result_D - exact_D, noise_multiplier * norm)
    return result_D


def widened(noise_multiplier: float, dimension: int) -> float:
    """The noise multiplier to draw secure noise at, so that it can be priced at the one that is given.

    :func:`privfl.privacy.noise.priced` solved for what is drawn: z / (1 − 2⁻²⁰ z √D).

    Raises:
        PrivacyError: no noise is wide enough for so many dimensions on the grid.
    """
    # priced(z) = z / (1 + g z), with g = 2⁻²⁰ √D
    grain = 1 / priced(1.0, dimension) - 1
    if grain * noise_multiplier >= 1:
        raise PrivacyError(f"secure noise of {noise_multiplier:g} in {dimension} dimensions: the grid is too coarse; lower it")
    return noise_multiplier / (1 - grain * noise_multiplier)


def require_noise(noise_D: Tensor, accounted: float) -> None:
    """Raise where noise is smaller than what is accounted.

    Of n Gaussian draws the root mean square lies more than 7/√(2n) below its standard deviation with a probability of
    about 1e-12; below 100 draws, where that says little, only missing noise is found.

    Args:
        noise_D: what was added, measured on the result: after minus before.
        accounted: the standard deviation that the ledger will hold.

    Raises:
        PrivacyError: too little, or something that is not finite.
    """
    drawn = math.sqrt(float(noise_D.double().square().mean()))
    if not drawn >= accounted * max(1 - 7 / math.sqrt(2 * noise_D.numel()), 1e-9):
        raise PrivacyError(f"noise of standard deviation {drawn:g} was drawn, {accounted:g} is accounted; nothing was sent")
