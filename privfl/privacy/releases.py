"""One release of a sampled Gaussian: its privacy loss, put on a grid from above.

"Connecting the dots" (Doroshenko et al. 2022): the mass between two points goes to both so that its total under P and under Q
is kept, which never lowers δ at any ε, and the δ of one release is exact at the points.

**Guarantees.** Rounding included, the masses dominate the exact loss: where the normal distribution function is rounded, as
much more goes up as may have been lost.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

Direction = Literal["remove", "add", "replace"]
"""Which neighbour has the unit: P (it is removed), Q (it is added), or both have one (it is replaced)."""

ROUNDOFF: Final = 2.0**-53
"""The unit roundoff of a float64."""

# exp of it is still a number.
_LARGEST: Final = 700.0


@dataclass(frozen=True)
class Masses:
    """Privacy loss on a grid: ``mass_L[i]`` at (lowest + i) · interval, and ``infinite`` at infinity."""

    interval: float
    lowest: int
    mass_L: Floats
    infinite: float

    @functools.cached_property
    def losses(self) -> Floats:
        """The loss at each point."""
        return np.asarray((self.lowest + np.arange(len(self.mass_L))) * self.interval, np.float64)

    @functools.cached_property
    def log_masses(self) -> Floats:
        """The logarithm of the mass at each point."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.mass_L))

    @functools.cached_property
    def coarser(self) -> Masses:
        """The same on an eighth of the points, from above: each mass goes to the points about it as it did at first."""
        first, width = self.lowest // 8, self.highest // 8 + 2 - self.lowest // 8
        padded_L = np.zeros(8 * width)
        padded_L[self.lowest - 8 * first :][: len(self.mass_L)] = self.mass_L
        part = np.expm1(-self.interval * np.arange(8)) / math.expm1(-8 * self.interval)
        mass_L = padded_L.reshape(width, 8) @ (1 - part)
        mass_L[1:] += (padded_L.reshape(width, 8) @ part)[:-1]
        return Masses(8 * self.interval, first, mass_L, self.infinite)

    @property
    def highest(self) -> int:
        """The number of the last point."""
        return self.lowest + len(self.mass_L) - 1


@dataclass(frozen=True)
class Release:
    """Noise of standard deviation ``noise`` on a unit that enters with probability ``rate`` and moves the sum by 1."""

    rate: float
    noise: float

    def loss(self, x: Floats, direction: Direction) -> Floats:
        """log(P(x)/Q(x))."""

        # log(1 − q + q exp((2x − 1) / 2σ²)): with the unit over without it
        def present(at: Floats) -> Floats:
            exponent = (2 * at - 1) / (2 * self.noise**2)
            if self.rate == 1.0:
                return exponent
            return np.asarray(np.logaddexp(math.log1p(-self.rate), math.log(self.rate) + exponent))

        match direction:
            case "remove":
                return present(x)
            case "add":
                return -present(x)
            case "replace":
                return present(x) - present(-x)

    def place(self, loss_L: Floats, direction: Direction) -> Floats:
        """The x at which the loss has these values when the unit is removed or replaced; −∞ if it never gets there."""
        if direction == "replace":
            return self._place_replaced(loss_L)
        if self.rate == 1.0:
            return 0.5 + self.noise**2 * loss_L
        # x = 1/2 + σ² log((exp(loss) − (1 − q)) / q)
        beyond_L = math.log1p(-self.rate) - loss_L
        with np.errstate(divide="ignore"):
            logs_L = loss_L + np.log(-np.expm1(np.minimum(beyond_L, 0.0))) - math.log(self.rate)
        return 0.5 + self.noise**2 * logs_L

    def _place_replaced(self, loss_L: Floats) -> Floats:
        """With y = exp(x/σ²), c = exp(−1/2σ²): q c y² − (1 − q)(exp(loss) − 1) y − q c exp(loss) = 0."""
        size_L = np.abs(loss_L)
        if self.rate == 1.0:
            return 0.5 * self.noise**2 * loss_L
        # Both sides over exp(loss): with b = (1 − q)(1 − exp(−loss)) / 2qc, y = exp(loss) (b + √(b² + exp(−loss)))
        scaled = math.log1p(-self.rate) - math.log(2 * self.rate) + 1 / (2 * self.noise**2)
        log_b_L = scaled + np.log(-np.expm1(-np.maximum(size_L, 1e-300)))
        log_root_L = 0.5 * np.logaddexp(2 * log_b_L, -size_L)
        return np.asarray(np.sign(loss_L) * self.noise**2 * (size_L + np.logaddexp(log_b_L, log_root_L)))

    def bounds(self, direction: Direction, deviations: int) -> tuple[float, float]:
        """The smallest and the largest loss within so many standard deviations of the noise; a side that is bounded, whole."""
        low = -1.0 if direction == "replace" else 0.0
        ends = self.loss(np.array([low - deviations * self.noise, 1 + deviations * self.noise]), direction)
        least, most = float(ends.min()), float(ends.max())
        if self.rate == 1.0 or direction == "replace":
            return least, most
        # The unit's not entering bounds the loss on one side.
        bound = math.log1p(-self.rate)
        return (bound, most) if direction == "remove" else (least, -bound)

    def tail(self, deviations: int) -> float:
        """The probability under P of more than so many standard deviations of noise towards the unit."""
        return float(self.rate * ndtr(-deviations) + (1 - self.rate) * ndtr(-deviations - 1 / self.noise))

    @functools.cached_property
    def deviation(self) -> float:
        """Standard deviation of the loss when the unit is removed."""
        if self.rate == 1.0:
            return 1 / self.noise
        z_X = np.linspace(-9.0, 9.0, 1001)
        x_X = np.concatenate((z_X * self.noise, 1 + z_X * self.noise))
        density_X = np.exp(-np.square(z_X) / 2)
        weight_X = np.concatenate(((1 - self.rate) * density_X, self.rate * density_X))
        loss_X = self.loss(x_X, "remove")
        mean = np.average(loss_X, weights=weight_X)
        return float(math.sqrt(np.average((loss_X - mean) ** 2, weights=weight_X)))

    def masses(self, x_L: Floats, *, replaced: bool) -> tuple[Floats, Floats, Floats, Floats]:
        """P and Q between consecutive places, which ascend, and by how much each may be rounded."""
        without, without_off = _between(x_L / self.noise)
        rate, rest = self.rate, 1 - self.rate

        def shifted(by: float) -> tuple[Floats, Floats]:
            moved, off = _between((x_L - by) / self.noise)
            return rest * without + rate * moved, rest * without_off + rate * off

        p_L, p_off_L = shifted(1.0)
        q_L, q_off_L = shifted(-1.0) if replaced else (without, without_off)
        return p_L, q_L, p_off_L, q_off_L


def _between(z_L: Floats) -> tuple[Floats, Floats]:
    """The standard normal's mass between consecutive points, accurate in both tails, and by how much it may be rounded."""
    lower_L, upper_L = z_L[:-1], z_L[1:]
    flip_L = lower_L > 0
    larger_L = ndtr(np.where(flip_L, -lower_L, upper_L))
    smaller_L = ndtr(np.where(flip_L, -upper_L, lower_L))
    # SciPy's function is off by up to 2.5 (2 + z²) units, as its exponent −z²/2 is rounded relative to itself; z is, too.
    units_L = 8 + 4 * np.minimum(np.square(lower_L), 1600.0)
    return np.asarray(larger_L - smaller_L), np.asarray(units_L * ROUNDOFF * larger_L)


@functools.lru_cache(maxsize=128)
def discretised(release: Release, exponent: int, direction: Direction, deviations: int) -> Masses:
    """One release's loss on the grid of interval 2^exponent; noise beyond so many standard deviations is certain harm."""
    interval = 2.0**exponent
    least, most = release.bounds(direction, deviations)
    lowest, highest = math.floor(least / interval), math.ceil(most / interval)
    loss_L = np.arange(lowest, highest + 1, dtype=np.float64) * interval
    if direction == "add":
        # The same places from the other side, with P and Q exchanged.
        q_L, p_L, q_off_L, p_off_L = (part[::-1] for part in _buckets(release, exponent, "remove", -highest, -lowest))
    else:
        p_L, q_L, p_off_L, q_off_L = _buckets(release, exponent, direction, lowest, highest)
    # Below the grid all is rounded up to its first point, above it to infinity.
    most_L = p_L + p_off_L
    below, inside_L, infinite = float(most_L[0]), most_L[1:-1], float(most_L[-1])
    # With a, b between losses l and l + h under P and Q, (a − b exp(l)) / (1 − exp(−h)) goes to the upper end, as does all that
    # may have been rounded off; all of a if exp(l) is no number any more.
    kept_L = inside_L - (q_L - q_off_L)[1:-1] * np.exp(np.minimum(loss_L[:-1], _LARGEST))
    upper_L = np.where(loss_L[:-1] < _LARGEST, np.clip(kept_L / -math.expm1(-interval), 0.0, inside_L), inside_L)
    mass_L = np.zeros(len(loss_L))
    mass_L[1:] += upper_L
    mass_L[:-1] += inside_L - upper_L
    mass_L[0] += below
    return Masses(interval, lowest, mass_L, infinite)


@functools.lru_cache(maxsize=8)
def _buckets(release: Release, exponent: int, direction: Direction, lowest: int, highest: int) -> tuple[Floats, ...]:
    """As :meth:`Release.masses`: below the first point, between consecutive ones, above the last."""
    x_L = release.place(np.arange(lowest, highest + 1, dtype=np.float64) * 2.0**exponent, direction)
    return release.masses(np.concatenate(([-np.inf], x_L, [np.inf])), replaced=direction == "replace")


@functools.lru_cache(maxsize=8192)
def log_mgf(release: Release, exponent: int, direction: Direction, deviations: int, order: float, coarser: int) -> float:
    """The logarithm of E[exp(order · loss)] of one release, on the grid made eight times coarser so many times."""
    part = discretised(release, exponent, direction, deviations)
    for _ in range(coarser):
        part = part.coarser
    logs_L = order * part.losses + part.log_masses
    largest = float(logs_L.max())
    return largest + math.log(float(np.exp(logs_L - largest).sum()))
