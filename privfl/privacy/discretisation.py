"""Privacy loss distribution of one sampled Gaussian release, discretised on a grid from above.

The discretisation is "Connecting the dots" (Doroshenko et al. 2022): the mass between two grid points is split between them so
that its totals under P and under Q are kept. This never lowers δ at any ε, and the δ of one release is exact at the points.

**Guarantees.** The masses dominate the exact loss, rounding included: as much mass as the rounding of the normal distribution
function may have lost is added at the upper point.
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
"""The neighbour that has the unit: P (the unit is removed), Q (it is added), or both have one (it is replaced)."""

ROUNDOFF: Final = 2.0**-53
"""The unit roundoff of a float64."""

# Largest exponent used: exp of it does not overflow.
_LARGEST: Final = 700.0


@dataclass(frozen=True)
class Masses:
    """A privacy loss distribution on a grid: mass ``mass_L[i]`` at (lowest + i) · interval, and ``infinite`` at infinity."""

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
        """The same distribution on an eighth of the points, from above, by the same split of each mass between two points."""
        first, width = self.lowest // 8, self.highest // 8 + 2 - self.lowest // 8
        padded_L = np.zeros(8 * width)
        padded_L[self.lowest - 8 * first :][: len(self.mass_L)] = self.mass_L
        part = np.expm1(-self.interval * np.arange(8)) / math.expm1(-8 * self.interval)
        mass_L = padded_L.reshape(width, 8) @ (1 - part)
        mass_L[1:] += (padded_L.reshape(width, 8) @ part)[:-1]
        return Masses(8 * self.interval, first, mass_L, self.infinite)

    @property
    def highest(self) -> int:
        """Number of the last point; the loss there is ``highest * interval``."""
        return self.lowest + len(self.mass_L) - 1


@dataclass(frozen=True)
class SampledGaussian:
    """A sampled Gaussian release: noise of deviation ``noise`` on a sum that one unit, entering at ``rate``, moves by 1."""

    rate: float
    noise: float

    def loss(self, x: Floats, direction: Direction) -> Floats:
        """Privacy loss log(P(x)/Q(x)) at outputs ``x``."""

        # Log ratio of the densities with and without the unit: log(1 − q + q exp((2x − 1) / 2σ²))
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
        """The output x at each loss, if the unit is removed or replaced; −∞ for a loss below all that occur."""
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
        """The output x at each loss if the unit is replaced.

        With y = exp(x/σ²) and c = exp(−1/2σ²) it solves q c y² − (1 − q)(exp(loss) − 1) y − q c exp(loss) = 0.
        """
        size_L = np.abs(loss_L)
        if self.rate == 1.0:
            return 0.5 * self.noise**2 * loss_L
        # Divided by exp(loss): with b = (1 − q)(1 − exp(−loss)) / 2qc, y = exp(loss) (b + √(b² + exp(−loss)))
        scaled = math.log1p(-self.rate) - math.log(2 * self.rate) + 1 / (2 * self.noise**2)
        log_b_L = scaled + np.log(-np.expm1(-np.maximum(size_L, 1e-300)))
        log_root_L = 0.5 * np.logaddexp(2 * log_b_L, -size_L)
        return np.asarray(np.sign(loss_L) * self.noise**2 * (size_L + np.logaddexp(log_b_L, log_root_L)))

    def bounds(self, direction: Direction, deviations: int) -> tuple[float, float]:
        """Smallest and largest loss within ``deviations`` standard deviations of noise; a bounded side is kept whole."""
        if self.rate == 1.0:
            # The loss is normal, with standard deviation μ and mean μ²/2.
            mu = (2.0 if direction == "replace" else 1.0) / self.noise
            return mu**2 / 2 - deviations * mu, mu**2 / 2 + deviations * mu
        low = -1.0 if direction == "replace" else 0.0
        ends = self.loss(np.array([low - deviations * self.noise, 1 + deviations * self.noise]), direction)
        least, most = float(ends.min()), float(ends.max())
        if direction == "replace":
            return least, most
        # The loss is bounded on one side, because the unit may not have entered.
        bound = math.log1p(-self.rate)
        return (bound, most) if direction == "remove" else (least, -bound)

    def tail(self, deviations: int) -> float:
        """Probability under P that noise exceeds ``deviations`` standard deviations towards the unit."""
        return float(self.rate * ndtr(-deviations) + (1 - self.rate) * ndtr(-deviations - 1 / self.noise))

    @functools.cached_property
    def deviation(self) -> float:
        """Standard deviation of the loss if the unit is removed."""
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
        """Masses of P and of Q between consecutive, ascending outputs, and bounds on the rounding of each."""
        without, without_off = _between(x_L / self.noise)
        rate, rest = self.rate, 1 - self.rate

        def shifted(by: float) -> tuple[Floats, Floats]:
            moved, off = _between((x_L - by) / self.noise)
            return rest * without + rate * moved, rest * without_off + rate * off

        p_L, p_off_L = shifted(1.0)
        q_L, q_off_L = shifted(-1.0) if replaced else (without, without_off)
        return p_L, q_L, p_off_L, q_off_L


def _between(z_L: Floats) -> tuple[Floats, Floats]:
    """Standard normal mass between consecutive points, accurate in both tails, and a bound on its rounding."""
    lower_L, upper_L = z_L[:-1], z_L[1:]
    flip_L = lower_L > 0
    larger_L = ndtr(np.where(flip_L, -lower_L, upper_L))
    smaller_L = ndtr(np.where(flip_L, -upper_L, lower_L))
    # SciPy's ndtr is off by up to 2.5 (2 + z²) units, because its exponent −z²/2 is rounded relative to itself; so is z.
    units_L = 8 + 4 * np.minimum(np.square(lower_L), 1600.0)
    return np.asarray(larger_L - smaller_L), np.asarray(units_L * ROUNDOFF * larger_L)


@functools.lru_cache(maxsize=128)
def discretised(release: SampledGaussian, exponent: int, direction: Direction, deviations: int) -> Masses:
    """One release's loss on a grid of interval 2^exponent; a loss above those kept counts as infinite."""
    interval = 2.0**exponent
    least, most = release.bounds(direction, deviations)
    lowest, highest = math.floor(least / interval), math.ceil(most / interval)
    loss_L = np.arange(lowest, highest + 1, dtype=np.float64) * interval
    if direction == "add":
        # Adding is removing with P and Q exchanged, on the same outputs in reverse order.
        q_L, p_L, q_off_L, p_off_L = (part[::-1] for part in _buckets(release, exponent, "remove", -highest, -lowest))
    else:
        p_L, q_L, p_off_L, q_off_L = _buckets(release, exponent, direction, lowest, highest)
    # Round mass below the grid up to its first point, and mass above it up to infinity.
    most_L = p_L + p_off_L
    below, inside_L, infinite = float(most_L[0]), most_L[1:-1], float(most_L[-1])
    # With masses a of P and b of Q between losses l and l + h, (a − b exp(l)) / (1 − exp(−h)) goes to the upper end, and so
    # does all that may have been rounded off. If exp(l) overflows, all of a goes there.
    kept_L = inside_L - (q_L - q_off_L)[1:-1] * np.exp(np.minimum(loss_L[:-1], _LARGEST))
    upper_L = np.where(loss_L[:-1] < _LARGEST, np.clip(kept_L / -math.expm1(-interval), 0.0, inside_L), inside_L)
    mass_L = np.zeros(len(loss_L))
    mass_L[1:] += upper_L
    mass_L[:-1] += inside_L - upper_L
    mass_L[0] += below
    return Masses(interval, lowest, mass_L, infinite)


@functools.lru_cache(maxsize=8)
def _buckets(release: SampledGaussian, exponent: int, direction: Direction, lowest: int, highest: int) -> tuple[Floats, ...]:
    """Masses and rounding as in :meth:`SampledGaussian.masses`: below the first grid point, between points, above the last."""
    x_L = release.place(np.arange(lowest, highest + 1, dtype=np.float64) * 2.0**exponent, direction)
    return release.masses(np.concatenate(([-np.inf], x_L, [np.inf])), replaced=direction == "replace")


@functools.lru_cache(maxsize=8192)
def log_mgf(
    release: SampledGaussian, exponent: int, direction: Direction, deviations: int, order: float, coarser: int
) -> float:
    """The logarithm of E[exp(order · loss)] of one release, on the grid made eight times coarser ``coarser`` times."""
    part = discretised(release, exponent, direction, deviations)
    for _ in range(coarser):
        part = part.coarser
    logs_L = order * part.losses + part.log_masses
    largest = float(logs_L.max())
    return largest + math.log(float(np.exp(logs_L - largest).sum()))
