"""δ(ε) of composed Gaussian mechanisms by an integral over a contour: neither a grid of losses nor a Fourier transform.

    δ(ε) = (1/2πi) ∫ exp(K(t) − εt) / (t (1 + t)) dt along Re t = t₀ > 0,   K(t) = Σ Tᵢ log E[exp(t Lᵢ)] under P,

at the saddle point t₀ of the integrand, where it does not oscillate, and a rounding is relative to δ. The contour may bend
to the right at both ends: the integrand has no pole there, and falls sooner if a release is most likely not to concern the
unit. The expectation is a trapezoidal sum over the noise, moved off the real line, where exp(t L) oscillates less; all are
analytic and fall off at both ends, so that the sums converge faster than any power of their spacing.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.privacy.mechanisms import Gaussian, History, Mechanism, PoissonGaussian

Complexes = NDArray[np.complexfloating[Any, Any]]
Reals = NDArray[np.floating[Any]]

# An integrand is left where it is below exp of this, and a sum is believed if twice as many points change it by less.
NEGLIGIBLE, PRECISION = -28.0, 1e-8


@dataclass(frozen=True)
class Part:
    """One mechanism, used some times, in one direction."""

    rate: float
    noise: float
    times: int
    direction: str

    def terms(self, z: Complexes) -> tuple[Complexes, Complexes]:
        """log P and the loss at x = z · noise."""
        base = -z * z / 2 - 0.5 * math.log(2 * math.pi)
        match self.direction:
            case "remove":
                return base + self._present(z), self._present(z)
            case "add":
                return base, -self._present(z)
            case _:
                return base + self._present(z), self._present(z) - self._present(-z)

    def _present(self, z: Complexes) -> Complexes:
        """log(1 − q + q exp(w)), w the loss without sampling."""
        w = (2 * z * self.noise - 1) / (2 * self.noise**2)
        small = w.real < 1
        low, high = np.where(small, w, 0), np.where(small, 0, w)
        return np.where(small, np.log1p(self.rate * np.expm1(low)), high + np.log(self.rate + (1 - self.rate) * np.exp(-high)))

    def log_mgf(self, t: Complexes) -> Complexes:
        """log E[exp(t L)] at each t."""
        moved = 2.0 if self.direction == "replace" else 1.0
        if self.rate == 1.0:
            return (t * t + t) * moved**2 / (2 * self.noise**2)
        reach = 12 + (float(t.real.max()) + 2) * moved / self.noise
        # When the unit is added the loss is bounded, and tilting hardly moves the noise.
        reach = min(reach, 40 + 2 / self.noise) if self.direction == "add" else reach
        spacing = min(0.12, 0.22 * self.noise)
        z = np.arange(-reach, reach + spacing, spacing)
        log_p, loss = self.terms(z + 0j)
        at_ends = [(log_p + end * loss).real for end in (float(t.real.min()), float(t.real.max()))]
        z = z[np.maximum.reduce([one - one.max() for one in at_ends]) > -60]
        # The loss has singularities at a distance of π · noise.
        shift = min(math.pi / 2 * self.noise, 1.5) * (-1 if self.direction == "add" else 1) if np.any(t.imag) else 0.0
        log_p, loss = self.terms(z + 1j * shift)
        found, rows = np.empty(len(t), np.complex128), max(1, 400_000 // len(z))
        for first in range(0, len(t), rows):
            exponents = log_p + t[first : first + rows, None] * loss
            largest = exponents.real.max(axis=1, keepdims=True)
            found[first : first + rows] = np.log(np.exp(exponents - largest).sum(axis=1) * spacing) + largest[:, 0]
        return found


@dataclass(frozen=True)
class Contour:
    """The integral of one direction."""

    parts: tuple[Part, ...]

    def most(self) -> float:
        """The largest loss that there can be."""
        bounded = all(part.direction == "add" and part.rate < 1 for part in self.parts)
        return sum(-part.times * math.log1p(-part.rate) for part in self.parts) if bounded else math.inf

    def log_mgf(self, t: Complexes) -> Complexes:
        """K(t)."""
        return np.asarray(sum(part.times * part.log_mgf(t) for part in self.parts), np.complex128)

    def delta(self, epsilon: float) -> float:
        """δ(ε), to about 1e-8 of itself; not a number if the sums do not settle."""
        if epsilon >= self.most():
            return 0.0
        t0, scale, log_size = self._saddle(epsilon)

        def integrand(bend: float, v: Reals) -> Reals:
            """On t = t₀ + bend s (cosh v − 1) + i s sinh v, over its size at the saddle point."""
            t = t0 + scale * (bend * (np.cosh(v) - 1) + 1j * np.sinh(v))
            step = bend * np.sinh(v) / 1j + np.cosh(v)
            exponent = self.log_mgf(t) - epsilon * t - np.log(t) - np.log1p(t) + np.log(step) - log_size
            return np.asarray(np.exp(exponent).real)

        for bend in (0.0, 0.02, 0.1, 0.3):
            if (end := self._end(functools.partial(integrand, bend))) is None:
                continue
            count, before = 64, math.inf
            while count <= 8192:
                now = float(integrand(bend, (np.arange(count) + 0.5) / count * end).sum()) * end / count / math.pi
                if abs(now - before) < PRECISION * abs(now):
                    return now * scale * math.exp(log_size)
                count, before = 2 * count, now
        return math.nan

    def bound(self, epsilon: float) -> float:
        """Chernoff's bound on δ(ε): exp(K(t) − εt) t^t / (1 + t)^(1 + t)."""
        if epsilon >= self.most():
            return 0.0
        t, _, log_size = self._saddle(epsilon)
        return math.exp(min(log_size + math.log(t) + t * math.log(t) - t * math.log1p(t), 0.0))

    @staticmethod
    def _end(integrand: Callable[[Reals], Reals]) -> float | None:
        """Where the integrand is negligible; None if it is nowhere, or grows."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            for end in np.arange(2.5, 16.0, 0.5):
                size = float(np.abs(integrand(np.linspace(end - 0.4, end, 5))).max())
                if size < math.exp(NEGLIGIBLE):
                    return float(end)
                if not size < 1e17:
                    return None
        return None

    def _saddle(self, epsilon: float) -> tuple[float, float, float]:
        """t₀, one over the square root of the exponent's curvature there, and the exponent."""

        def exponent(log_t: float) -> float:
            t = math.exp(log_t)
            return float(self.log_mgf(np.array([t + 0j]))[0].real) - epsilon * t - log_t - math.log1p(t)

        low = -7.0
        while exponent(low + 1) < exponent(low) and low < 16:
            low += 1
        low, high = low - 1, low + 1
        for _ in range(18):
            left, right = low + 0.382 * (high - low), low + 0.618 * (high - low)
            low, high = (low, right) if exponent(left) < exponent(right) else (left, high)
        place, width = (low + high) / 2, 1e-3
        curvature = (exponent(place + width) - 2 * exponent(place) + exponent(place - width)) / width**2
        return math.exp(place), math.exp(place) / math.sqrt(max(curvature, 1e-3)), exponent(place)


def contours(history: History) -> list[Contour]:
    """The directions in which two neighbours can differ."""
    directions = ["replace"] if history.relation == "replace_one" else ["remove", "add"]

    def part(mechanism: Mechanism, times: int, direction: str) -> Part:
        assert isinstance(mechanism, (Gaussian, PoissonGaussian))
        return Part(getattr(mechanism, "sample_rate", 1.0), mechanism.noise_multiplier, times, direction)

    return [Contour(tuple(part(one, times, way) for one, times in history.items())) for way in directions]


def true_delta(history: History, epsilon: float) -> float:
    """δ(ε) in the worse direction; not a number if a sum does not settle."""
    worst = 0.0
    for one in contours(history):
        if not one.bound(epsilon) <= worst:
            worst = float(np.maximum(worst, one.delta(epsilon)))
    return worst
