"""Noise that is measured as it is drawn: an engine accounts for its actual noise, not for its intended noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from privfl.errors import PrivacyError
from privfl.privacy.gaussian import drawn_noise_multiplier
from privfl.privacy.noise import SecureNoise
from privfl.privacy.streams import RandomStream
from privfl.seeding import Seed


def require_noise(draws: int, steps: int, numbers: int, square: float, accounted: float) -> None:
    """Raise unless each step drew its noise, and the noise was as large as is accounted.

    The root mean square of n Gaussian draws lies below σ (1 − 7/√(2n)) with a probability of 1e-12. Rounding of
    sum and noise can only add to it.

    Args:
        draws: how many steps drew noise for every parameter.
        steps: how many should have.
        numbers: how many numbers were drawn altogether.
        square: the sum of their squares.
        accounted: the standard deviation that is accounted.

    Raises:
        PrivacyError: too few draws, or too small ones.
    """
    if draws != steps:
        raise PrivacyError(f"{draws} noise draws in {steps} steps; each step needs one, so nothing was sent")
    drawn = math.sqrt(square / numbers)
    if drawn < accounted * (1 - 7 / math.sqrt(2 * numbers)):
        raise PrivacyError(f"noise of standard deviation {drawn:g} was drawn, {accounted:g} is accounted; nothing was sent")


def fill(row_D: Tensor, numels: Sequence[int], deviation: float, generator: torch.Generator) -> None:
    """Overwrite a vector of D entries with one client's noise of one step.

    It is drawn parameter by parameter, as Opacus draws it; on a GPU, on which every call is dear, in one call.

    Args:
        row_D: contiguous.
        numels: the sizes of the parameters, in order; they add up to D.
        deviation: the standard deviation.
        generator: the client's own, on the row's device.
    """
    for part in torch.split(row_D, list(numels)) if row_D.device.type == "cpu" else (row_D,):
        # The noise is drawn in float32 for weights of any type, as the reference draws it.
        drawn = part if part.dtype == torch.float32 else torch.empty_like(part, dtype=torch.float32)
        drawn.normal_(0.0, deviation, generator=generator)
        if drawn is not part:
            part.copy_(drawn)


class CohortNoise:
    """Gaussian noise for K clients, each from its own stream, as the reference draws it.

    Args:
        seeds: a stream for each client.
        noise_multipliers: each client's σ.
        max_grad_norm: C; the standard deviation is σ C.
        device: the device on which it is drawn.
        numels: the sizes of the parameters, in order; they add up to D.
        secure: whether the noise is drawn on a grid from a cryptographic stream (:mod:`privfl.privacy.noise`).
    """

    def __init__(
        self,
        seeds: Sequence[Seed],
        noise_multipliers: Sequence[float],
        max_grad_norm: float,
        device: torch.device,
        numels: Sequence[int],
        secure: bool = False,
    ) -> None:
        self.noise_multipliers, self.max_grad_norm = noise_multipliers, max_grad_norm
        self.draws = [0] * len(seeds)
        self._generators = [] if secure else [seed.torch(device) for seed in seeds]
        self._secure = [SecureNoise(RandomStream(seed.key())) for seed in seeds] if secure else []
        self._numels = list(numels)
        self._square_K = torch.zeros(len(seeds), dtype=torch.float64, device=device)

    def begin(self, sums_KD: Tensor) -> Tensor:
        """Overwrite the sums of the first so many clients with the values that their gradients are added to.

        Those are fresh noise, drawn in its final place. With secure noise they are zeros: it comes last, with the
        rounding of the whole sum.
        """
        return sums_KD.zero_() if self._secure else self.draw(sums_KD)

    def end(self, sums_KD: Tensor) -> Tensor:
        """Add secure noise to the sums, in place, and measure it; other noise is in them from the beginning."""
        if not self._secure:
            return sums_KD
        for k, sum_D in enumerate(sums_KD):
            deviation = drawn_noise_multiplier(self.noise_multipliers[k], len(sum_D)) * self.max_grad_norm
            before_D = sum_D.clone()
            for part in torch.split(sum_D, self._numels):
                part.copy_(self._secure[k].added(part, deviation))
            self.draws[k] += 1
            self._square_K[k].add_(torch.linalg.vector_norm(sum_D - before_D).double().square())
        return sums_KD

    def draw(self, noise_KD: Tensor) -> Tensor:
        """Overwrite the rows with fresh noise for the first so many clients."""
        clients = len(noise_KD)
        threads = torch.get_num_threads() if noise_KD.device.type == "cpu" else 1
        if min(threads, clients) == 1:
            self._fill(noise_KD, range(clients))
        else:
            # PyTorch draws from a generator on one thread; each client has its own, so the cohort's are drawn side by side.
            with ThreadPoolExecutor(threads) as pool:
                shares = [range(first, clients, threads) for first in range(threads)]
                list(pool.map(partial(self._fill, noise_KD), shares))
        self._square_K[:clients].add_(torch.linalg.vector_norm(noise_KD, dim=1).double().square())
        return noise_KD

    def _fill(self, noise_KD: Tensor, clients: range) -> None:
        for k in clients:
            fill(noise_KD[k], self._numels, self.noise_multipliers[k] * self.max_grad_norm, self._generators[k])
            self.draws[k] += 1

    def require(self, steps: Sequence[int]) -> None:
        """Raise unless each client drew noise in each of its steps, large enough; see :func:`require_noise`.

        Raises:
            PrivacyError: too few draws, or too small ones.
        """
        squares, dimensions = self._square_K.tolist(), sum(self._numels)
        for k, wanted in enumerate(steps):
            deviation = self.noise_multipliers[k] * self.max_grad_norm
            require_noise(self.draws[k], wanted, wanted * dimensions, squares[k], deviation)
