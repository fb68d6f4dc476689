"""Privacy loss distributions, composed by Fourier transform: the exact price of Gaussian mechanisms, from above.

With P and Q the outputs on two neighbours and x drawn from P, the privacy loss is log(P(x)/Q(x)); losses of independent
releases add, and δ(ε) = E[max(0, 1 − exp(ε − loss))] (Sommer, Meiser & Mohammadi 2019). Losses are put on a grid by
"connecting the dots" (Doroshenko et al. 2022): the mass between two points goes to both so that its total under P and
under Q is kept, which never lowers δ at any ε, and the δ of one step is exact at the points.

dp_accounting computes the same; the tests hold this chapter to it. It is written again because a cohort has a thousand
histories, and one step takes the library up to a second, all its loops being Python's.

**Guarantees.** δ and ε are upper bounds, but for the rounding of the Fourier transform, below 1e-10 in δ. They exceed the
exact ones by less than 1e-4 of ε: the interval of the grid is a thirtieth of one step's standard deviation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.signal import lfilter
from scipy.special import ndtr

from privfl.errors import PrivacyError
from privfl.privacy.mechanisms import Gaussian, MatrixGaussian, Mechanism, PoissonGaussian, ShuffledEpoch

Floats = NDArray[np.float64]

# Which neighbour has the unit: P (it is removed), Q (it is added), or both have one (it is replaced).
_Direction = Literal["remove", "add", "replace"]

# How many standard deviations of the noise are kept: what lies beyond, 1e-19, is counted as certain harm.
_TAIL: Final = 9.0

# The part of a composition that may fall out of the window; counted as certain harm.
_OUTSIDE: Final = 1e-15

# The interval is at most this part of one step's standard deviation, and at most so much.
_FINENESS, _COARSEST = 1 / 32, 0.25

# exp of it is still a number.
_LARGEST: Final = 700.0

# exp of it is less than what rounding leaves of a frequency.
_NOTHING: Final = -50.0

# One step has at most so many points, however long its tail.
_POINTS: Final = 2**18


@dataclass(frozen=True)
class Loss:
    """Privacy loss on a grid: ``mass_L[i]`` at (lowest + i) · interval, and ``infinite`` at infinity."""

    interval: float
    lowest: int
    mass_L: Floats
    infinite: float

    @functools.cached_property
    def _tails(self) -> tuple[Floats, Floats]:
        """For each point: the mass at it and above, and the same weighted by exp(its loss − the loss)."""
        backwards_L = self.mass_L[::-1]
        weighted_L = lfilter([1.0], [1.0, -math.exp(-self.interval)], backwards_L)
        return np.cumsum(backwards_L)[::-1], np.asarray(weighted_L, np.float64)[::-1]

    def delta(self, epsilons: ArrayLike) -> Floats:
        """δ at each ε, of the shape of ``epsilons``."""
        grid = np.asarray(epsilons, np.float64)
        above_L, weighted_L = self._tails
        # The first point at or above ε.
        place = np.clip(np.ceil(grid / self.interval).astype(np.int64) - self.lowest, 0, len(self.mass_L))
        inside = place < len(self.mass_L)
        at = np.where(inside, place, 0)
        shift = np.minimum(0.0, grid - (self.lowest + at) * self.interval)
        found = np.where(inside, above_L[at] - np.exp(shift) * weighted_L[at], 0.0)
        below = grid < self.lowest * self.interval
        found = np.where(below, above_L[0] - np.exp(shift) * weighted_L[0], found)
        return np.clip(found + self.infinite, 0.0, 1.0)

    def epsilon(self, delta: float) -> float:
        """The smallest ε ≥ 0 at which δ(ε) ≤ ``delta``; infinite where there is none."""
        if delta <= self.infinite:
            return math.inf
        above_L, weighted_L = self._tails
        # δ at the points, which falls; the answer lies between the last point where it is too large and the next.
        exceeding = np.flatnonzero(above_L - weighted_L + self.infinite > delta)
        place = int(exceeding[-1]) + 1 if len(exceeding) else 0
        if place == len(self.mass_L):
            return max(0.0, (self.lowest + place - 1) * self.interval)
        # above − exp(ε − loss) weighted + infinite = δ
        room = (above_L[place] + self.infinite - delta) / weighted_L[place] if weighted_L[place] > 0 else 0.0
        if room <= 0:
            return 0.0 if place == 0 else max(0.0, (self.lowest + place - 1) * self.interval)
        return max(0.0, (self.lowest + place) * self.interval + math.log(room))


@dataclass(frozen=True)
class Losses:
    """The loss in each direction in which two neighbours can differ; the worse one counts."""

    directions: tuple[Loss, ...]

    def epsilon(self, delta: float) -> float:
        """The smallest ε ≥ 0 that holds at ``delta`` in every direction."""
        return max(one.epsilon(delta) for one in self.directions)

    def delta(self, epsilons: ArrayLike) -> Floats:
        """δ that holds at each ε in every direction, of the shape of ``epsilons``."""
        return np.asarray(np.maximum.reduce([one.delta(epsilons) for one in self.directions]))


@dataclass(frozen=True)
class _Step:
    """Noise of standard deviation ``noise`` on a unit that enters with probability ``rate`` and moves the sum by 1."""

    rate: float
    noise: float

    def loss(self, x: Floats, direction: _Direction) -> Floats:
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

    def place(self, loss_L: Floats, direction: _Direction) -> Floats:
        """The x at which the loss has these values; −∞ or ∞ where it never gets there."""
        if direction == "replace":
            return self._place_replaced(loss_L)
        ratio_L = loss_L if direction == "remove" else -loss_L
        if self.rate == 1.0:
            return 0.5 + self.noise**2 * ratio_L
        # x = 1/2 + σ² log((exp(loss) − (1 − q)) / q)
        beyond_L = math.log1p(-self.rate) - ratio_L
        with np.errstate(divide="ignore"):
            logs_L = ratio_L + np.log(-np.expm1(np.minimum(beyond_L, 0.0))) - math.log(self.rate)
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

    def masses(self, x_L: Floats, direction: _Direction) -> tuple[Floats, Floats]:
        """P and Q between consecutive places, which ascend."""
        without = _between(x_L / self.noise)
        with_unit = (1 - self.rate) * without + self.rate * _between((x_L - 1) / self.noise)
        match direction:
            case "remove":
                return with_unit, without
            case "add":
                return without, with_unit
            case "replace":
                return with_unit, (1 - self.rate) * without + self.rate * _between((x_L + 1) / self.noise)

    def bounds(self, direction: _Direction) -> tuple[float, float]:
        """The smallest and the largest loss that is kept."""
        low = -1.0 if direction == "replace" else 0.0
        ends = self.loss(np.array([low - _TAIL * self.noise, 1 + _TAIL * self.noise]), direction)
        return float(ends.min()), float(ends.max())

    @functools.cached_property
    def deviation(self) -> float:
        """Standard deviation of the loss when the unit is removed."""
        x_X = np.linspace(-_TAIL * self.noise, 1 + _TAIL * self.noise, 4001)
        weight_X = self.rate * np.exp(-(((x_X - 1) / self.noise) ** 2) / 2) + (1 - self.rate) * np.exp(
            -((x_X / self.noise) ** 2) / 2
        )
        loss_X = self.loss(x_X, "remove")
        mean = np.average(loss_X, weights=weight_X)
        return float(math.sqrt(np.average((loss_X - mean) ** 2, weights=weight_X)))


def _between(z_L: Floats) -> Floats:
    """The standard normal's mass between consecutive points, accurate in both tails."""
    lower_L, upper_L = z_L[:-1], z_L[1:]
    flip_L = lower_L > 0
    return np.asarray(ndtr(np.where(flip_L, -lower_L, upper_L)) - ndtr(np.where(flip_L, -upper_L, lower_L)))


@functools.lru_cache(maxsize=64)
def _discretised(step: _Step, exponent: int, direction: _Direction) -> Loss:
    """One step's loss on the grid of interval 2^exponent."""
    interval = 2.0**exponent
    least, most = step.bounds(direction)
    lowest, highest = math.floor(least / interval), math.ceil(most / interval)
    loss_L = np.arange(lowest, highest + 1, dtype=np.float64) * interval
    x_L = step.place(loss_L, direction)
    ends = np.array([-np.inf, np.inf])
    if direction == "add":
        p_L, q_L = (part[::-1] for part in step.masses(np.concatenate((ends[:1], x_L[::-1], ends[1:])), direction))
    else:
        p_L, q_L = step.masses(np.concatenate((ends[:1], x_L, ends[1:])), direction)
    # What lies below the grid is rounded up to its first point, what lies above it to infinity.
    below, inside_L, infinite = float(p_L[0]), p_L[1:-1], float(p_L[-1])
    # Of a, b between losses l and l + h under P and Q, (a − b exp(l)) / (1 − exp(−h)) goes to the upper end; all of a where
    # exp(l) is no number any more.
    kept_L = inside_L - q_L[1:-1] * np.exp(np.minimum(loss_L[:-1], _LARGEST))
    upper_L = np.where(loss_L[:-1] < _LARGEST, np.clip(kept_L / -math.expm1(-interval), 0.0, inside_L), inside_L)
    mass_L = np.zeros(len(loss_L))
    mass_L[1:] += upper_L
    mass_L[:-1] += inside_L - upper_L
    mass_L[0] += below
    return Loss(interval, lowest, mass_L, infinite)


def composed(history: Mapping[Mechanism, int]) -> Losses:
    """The loss of all releases of a history that is not empty.

    Raises:
        PrivacyError: a mechanism has no privacy loss distribution here.
    """
    steps, directions = _steps(history)
    exponent = _exponent(steps, directions)
    return Losses(tuple(_convolved(steps, exponent, direction) for direction in directions))


def _steps(history: Mapping[Mechanism, int]) -> tuple[dict[_Step, int], tuple[_Direction, ...]]:
    """What was done, as sampled Gaussians; those without sampling are together one Gaussian, Σ times · (Δ/σ)²."""
    steps: dict[_Step, int] = {}
    unsampled, replaced = 0.0, False
    for mechanism, times in history.items():
        replaced = mechanism.relation == "replace_one"
        match mechanism:
            case PoissonGaussian(sample_rate=rate, noise_multiplier=noise) if rate < 1:
                steps[_Step(rate, noise)] = times
            case PoissonGaussian() | Gaussian() | ShuffledEpoch():
                unsampled += times / mechanism.noise_multiplier**2
            case MatrixGaussian():
                unsampled += times * (mechanism.sensitivity / mechanism.noise_multiplier) ** 2
            case _:
                raise PrivacyError(f"{type(mechanism).__name__} has no privacy loss distribution; price it by accountant 'rdp'")
    if unsampled:
        steps[_Step(1.0, unsampled**-0.5)] = 1
    return steps, ("replace",) if replaced else ("remove", "add")


def _exponent(steps: Mapping[_Step, int], directions: tuple[_Direction, ...]) -> int:
    variance = sum(times * step.deviation**2 for step, times in steps.items()) / sum(steps.values())
    # One release costs no transform, and can be exact.
    fineness = _FINENESS / 32 if sum(steps.values()) == 1 else _FINENESS
    longest = max(most - least for step in steps for least, most in [step.bounds(one) for one in directions])
    return math.floor(math.log2(max(min(_COARSEST, fineness * math.sqrt(variance)), longest / _POINTS)))


def _convolved(steps: Mapping[_Step, int], exponent: int, direction: _Direction) -> Loss:
    parts = {step: _discretised(step, exponent, direction) for step in steps}
    lowest, highest = _window(steps, parts, exponent, direction)
    longest = max(len(part.mass_L) for part in parts.values())
    size = _quick_size(max(highest - lowest + 1, longest))
    left = np.zeros(size // 2 + 1)
    start, finite = 0, 0.0
    for step, times in steps.items():
        left += times * _spectrum(step, exponent, direction, size)[1]
        start += times * parts[step].lowest
        finite += times * math.log1p(-parts[step].infinite)
    # High powers leave next to nothing of most frequencies.
    seen = np.flatnonzero(left > _NOTHING)
    logs = sum(times * np.log(_spectrum(step, exponent, direction, size)[0][seen]) for step, times in steps.items())
    spectrum = np.zeros(size // 2 + 1, np.complex128)
    spectrum[seen] = np.exp(logs)
    # Only losses from 0 on matter to an ε from 0 on.
    first = max(lowest, 0)
    mass_L = np.roll(fft.irfft(spectrum, size), (start - first) % size)[: highest - first + 1]
    return Loss(2.0**exponent, first, np.maximum(mass_L, 0.0), _OUTSIDE - math.expm1(finite))


def _quick_size(least: int) -> int:
    """4, 5, 6 or 7 times a power of two: a transform of it is quick, and few sizes fill the cache."""
    unit = 1 << max(0, least.bit_length() - 3)
    return -(-least // unit) * unit


@functools.lru_cache(maxsize=32)
def _spectrum(step: _Step, exponent: int, direction: _Direction, size: int) -> tuple[NDArray[np.complex128], Floats]:
    """One step's Fourier transform, and the logarithm of its absolute value."""
    found = np.asarray(fft.rfft(_discretised(step, exponent, direction).mass_L, size), np.complex128)
    with np.errstate(divide="ignore"):
        return found, 0.5 * np.log(np.square(found.real) + np.square(found.imag))


def _window(steps: Mapping[_Step, int], parts: Mapping[_Step, Loss], exponent: int, direction: _Direction) -> tuple[int, int]:
    """Grid points between which all but ``_OUTSIDE`` of the sum lies, by Chernoff's bound at a few orders."""
    interval = 2.0**exponent
    lowest = sum(times * parts[step].lowest for step, times in steps.items())
    highest = sum(times * (parts[step].lowest + len(parts[step].mass_L) - 1) for step, times in steps.items())
    if sum(steps.values()) == 1:
        return lowest, max(highest, 0)

    def bound(order: float) -> float:
        logs = sum(times * _log_mgf(step, exponent, direction, order) for step, times in steps.items())
        return (logs + math.log(2 / _OUTSIDE)) / abs(order) / interval

    variance = sum(times * step.deviation**2 for step, times in steps.items())
    # The best order for a normal distribution; a long tail asks for a smaller one. Powers of two are found in the cache.
    start = 2.0 ** math.ceil(math.log2(math.sqrt(2 * math.log(2 / _OUTSIDE) / variance)))
    below, above = (
        -_first_minimum(lambda halvings: bound(-start / 2**halvings)),
        _first_minimum(lambda halvings: bound(start / 2**halvings)),
    )
    return max(lowest, math.floor(below)), max(min(highest, math.ceil(above)), 0)


def _first_minimum(value: Callable[[int], float]) -> float:
    """Of value(0), value(1), ... the last before they begin to rise: (log E[exp(t · loss)] + c) / t has one minimum."""
    best, place = value(0), 1
    while (found := value(place)) < best:
        best, place = found, place + 1
    return best


@functools.lru_cache(maxsize=4096)
def _log_mgf(step: _Step, exponent: int, direction: _Direction, order: float) -> float:
    """The logarithm of E[exp(order · loss)] of one step, on the grid."""
    part = _discretised(step, exponent, direction)
    exponents_L = order * (part.lowest + np.arange(len(part.mass_L))) * part.interval
    largest = float(exponents_L.max())
    return largest + math.log(float(np.exp(exponents_L - largest) @ part.mass_L))
