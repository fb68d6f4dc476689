"""Privacy loss distributions composed by Fourier transform: a tight upper bound on the price of Gaussian mechanisms.

P and Q are the output distributions on two neighbours. For x drawn from P the privacy loss is log(P(x)/Q(x)). Losses of
independent releases add, and δ(ε) = E[max(0, 1 − exp(ε − loss))] (Sommer, Meiser & Mohammadi 2019).
:mod:`privfl.privacy.discretisation` puts the loss of one release on a grid.

A Fourier transform rounds relative to the largest masses, but a small δ lies in the tail. Therefore losses are tilted first:
with K(t) = log E[exp(t · loss)], each mass is multiplied by exp(t · loss − K(t)), and is divided by the same after the
transform. The t is the one that moves the bulk to the ε that is sought (near the saddle point; Alghamdi et al. 2023, "The
saddle-point method in differential privacy"). Rounding is then small relative to δ, for every δ.

dp_accounting composes without the tilt. The tests compare this chapter with it, and with a contour integral that has neither
grid nor transform. This chapter exists for speed: a cohort has a thousand histories, and the library's loops in Python take
up to a second for one release.

**Guarantees.** δ and ε are upper bounds, rounding included, for any δ from 1e-300 on. Each source of error has a bound that is
added to δ: the tails of the noise that are cut, the mass outside of the window, and the rounding of masses, transforms and
powers. If these bounds use up δ, Chernoff's bound at the same t is used, which is Rényi DP at the order t + 1. A loss with a
long tail gets a coarser grid, so memory is bounded.

**Precision.** For δ ≥ 1e-10 and up to a million releases, ε exceeds the exact one by less than 2e-4: relative from ε = 1 on,
absolute below, so exp(ε) is off by at most a factor of 1.0002 there. This is a finding of tests on random points, not a
theorem. Below 1e-10 the bounds on rounding may add some percent.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.signal import lfilter

from privfl.errors import PrivacyError
from privfl.privacy.discretisation import ROUNDOFF, Direction, Floats, Masses, SampledGaussian, discretised, log_mgf
from privfl.privacy.mechanisms import Gaussian, MatrixGaussian, Mechanism, PoissonGaussian, ShuffledEpoch

# Largest share of δ in the tails of the noise that are cut off; fewest and most standard deviations of noise kept.
_CUT, _SHORTEST, _LONGEST = 1e-5, 6, 38

# Largest mass of a tilted composition that may fall out of the window at either end.
_OUTSIDE: Final = 1e-12

# Largest interval of the grid: relative to one release's standard deviation, and absolute.
_FINENESS, _COARSEST = 1 / 32, 0.25

# A smaller sample rate is priced as this one.
_LEAST_RATE: Final = 1e-30

# Tilts are the integer powers of two to this power.
_TILTS: Final = 0.25

# Roundoff units by which each of the log₂ n stages of a transform may move a frequency, for masses that add up to 1.
_STAGE: Final = 4.0

# A frequency below exp of this is lost to rounding.
_NOTHING: Final = -50.0

# Largest exponent used: exp of it does not overflow.
_LARGEST: Final = 700.0

# Most attempts at a better tilt or a finer grid.
_PASSES: Final = 6

# The grid is refined until it raises ε by no more than the tolerance; number of points to aim at, and at most, for a release.
_TOLERANCE: Final = 1e-4
_POINTS, _MOST_POINTS = 2**18, 2**21

# Most points of a composition, however long its tails.
_WINDOW: Final = 2**22

# The whole curve is composed at these δ; between them little precision is lost.
_CURVE: Final = (1e-3, 1e-9)


@dataclass(frozen=True)
class PrivacyLossDistribution:
    """Tilted privacy loss distribution of a composition in one direction.

    Args:
        interval: interval of the grid.
        lowest: number of the first grid point; ``mass_L[i]`` is at loss (lowest + i) · interval, for losses from 0 on.
        mass_L: the masses times exp(tilt · loss − ``log_mgf``).
        infinite: the mass at infinity, not tilted.
        tilt: t > 0.
        log_mgf: K(t) of the composition.
        off: bound on the error of ``mass_L``, summed over all losses.
    """

    interval: float
    lowest: int
    mass_L: Floats
    infinite: float
    tilt: float
    log_mgf: float
    off: float

    @functools.cached_property
    def _tails(self) -> tuple[Floats, Floats]:
        """For each point, two sums of the masses from it on, weighted by exp(−t u) and exp(−(1 + t) u) at distance u."""
        backwards_L = self.mass_L[::-1]
        decays = (math.exp(-order * self.interval) for order in (self.tilt, 1 + self.tilt))
        above_L, weighted_L = (np.asarray(lfilter([1.0], [1.0, -decay], backwards_L), np.float64) for decay in decays)
        return above_L[::-1], weighted_L[::-1]

    @functools.cached_property
    def _lost(self) -> float:
        """Bound on the error of δ(ε) exp(t ε − K) by errors of the masses and of their sums."""
        steps = min(float(len(self.mass_L)), 1 / (self.tilt * self.interval))
        return self.off * math.exp(_log_largest_weight(self.tilt)) + 4 * ROUNDOFF * (steps + 2)

    def hidden(self, epsilon: float) -> float:
        """Bound on the error that is part of δ(ε)."""
        return self._lost * math.exp(min(self.log_mgf - self.tilt * epsilon, _LARGEST))

    def _scale(self, loss: Floats) -> Floats:
        """exp(K − t · loss), with the exponent capped so that it does not overflow."""
        return np.asarray(np.exp(np.minimum(self.log_mgf - self.tilt * loss, _LARGEST)))

    def delta(self, epsilons: ArrayLike) -> Floats:
        """δ at each ε ≥ 0, of the shape of ``epsilons``."""
        grid = np.asarray(epsilons, np.float64)
        above_L, weighted_L = self._tails
        # Find the first point at or above ε.
        place = np.clip(np.ceil(grid / self.interval) - self.lowest, 0, len(self.mass_L)).astype(np.int64)
        inside = place < len(self.mass_L)
        at = np.where(inside, place, 0)
        loss = (self.lowest + at) * self.interval
        found = np.where(inside, above_L[at] - np.exp(np.minimum(0.0, grid - loss)) * weighted_L[at], 0.0)
        # Chernoff's bound: all of the mass counts as much as a unit of it can at most.
        chernoff = np.exp(np.minimum(self.log_mgf + self.off - self.tilt * grid + _log_largest_weight(self.tilt), 0.0))
        summed = self._scale(loss) * found + self._scale(grid) * self._lost
        return np.clip(np.minimum(summed, chernoff) + self.infinite, 0.0, 1.0)

    def epsilon(self, delta: float) -> float:
        """The smallest ε ≥ 0 at which δ(ε) ≤ ``delta``; infinite if there is none."""
        room = delta - self.infinite
        if room <= 0:
            return math.inf
        chernoff = (self.log_mgf + self.off + _log_largest_weight(self.tilt) - math.log(room)) / self.tilt
        return max(0.0, min(chernoff, self._epsilon_on_grid(room)))

    def _epsilon_on_grid(self, room: float) -> float:
        above_L, weighted_L = self._tails
        # Within the interval below a point the error weighs slightly more than at the point.
        lost = self._lost * math.exp(min(self.tilt * self.interval, _LARGEST))
        scaled = math.log(room) - self.log_mgf

        def allowed(place: int) -> float:
            exponent = scaled + self.tilt * (self.lowest + place) * self.interval
            return math.exp(min(max(exponent, -_LARGEST), _LARGEST))

        # δ falls with ε, so the answer lies between the last point at which δ is too large and the next.
        place = bisect.bisect_left(
            range(len(above_L)), True, key=lambda place: float(above_L[place] - weighted_L[place]) + lost <= allowed(place)
        )
        loss = (self.lowest + place) * self.interval
        if place == len(above_L):
            return math.inf
        if place == 0:
            return loss
        # above − exp(ε − loss) weighted + lost = allowed
        part = float(above_L[place] + lost - allowed(place)) / float(weighted_L[place]) if weighted_L[place] > 0 else 0.0
        return loss + (min(0.0, max(-self.interval, math.log(part))) if part > 0 else -self.interval)


def epsilon(history: Mapping[Mechanism, int], delta: float) -> float:
    """ε at ``delta`` of a history that is not empty, in the worse direction; infinite if no ε suffices.

    Raises:
        PrivacyError: a mechanism has no privacy loss distribution here.
    """
    worst = 0.0
    for composition in _compositions(history, delta):
        # Skip the transform if Chernoff's bound is below the ε found already.
        if composition.bound > worst:
            worst = max(worst, composition.epsilon())
    return worst


def curve(history: Mapping[Mechanism, int], epsilons: ArrayLike) -> Floats:
    """δ at each ε ≥ 0, of the shape of ``epsilons``, of a history that is not empty, in the worse direction at each.

    Raises:
        PrivacyError: a mechanism has no privacy loss distribution here.
    """
    found = [[one.distribution().delta(epsilons) for one in _compositions(history, delta)] for delta in _CURVE]
    return np.asarray(np.minimum.reduce([np.maximum.reduce(each) for each in found]))


def _compositions(history: Mapping[Mechanism, int], delta: float) -> list[_Composition]:
    """The composition in each direction, of sampled Gaussians; unsampled ones merge into one, of Σ times · (Δ/σ)²."""
    steps: dict[SampledGaussian, int] = {}
    unsampled, replaced = 0.0, False
    for mechanism, times in history.items():
        replaced = mechanism.relation == "replace_one"
        match mechanism:
            case PoissonGaussian(sample_rate=rate, noise_multiplier=noise) if rate < 1:
                # A rate is only ever rounded up, because a larger rate costs more.
                steps[SampledGaussian(max(rate, _LEAST_RATE), noise)] = times
            case PoissonGaussian() | Gaussian() | ShuffledEpoch():
                unsampled += times / mechanism.noise_multiplier**2
            case MatrixGaussian():
                unsampled += times * (mechanism.sensitivity / mechanism.noise_multiplier) ** 2
            case _:
                raise PrivacyError(f"{type(mechanism).__name__} has no privacy loss distribution; price it by accountant 'rdp'")
    if unsampled:
        steps[SampledGaussian(1.0, unsampled**-0.5)] = 1
    directions: tuple[Direction, ...] = ("replace",) if replaced else ("remove", "add")
    return [_Composition(steps, direction, delta) for direction in directions]


class _Composition:
    """Composition of releases in one direction, for one δ.

    ``bound`` is Chernoff's bound on ε, which needs no transform.
    """

    def __init__(self, steps: Mapping[SampledGaussian, int], direction: Direction, delta: float) -> None:
        self.steps, self.direction, self.delta = steps, direction, delta
        self.times = sum(steps.values())
        self.deviations = {step: self._kept(step) for step in steps}
        self.variance = sum(times * step.deviation**2 for step, times in steps.items())
        self.exponent = self._exponent()
        self.longest_window = False
        self.place, self.bound = self._chernoff()

    def _kept(self, step: SampledGaussian) -> int:
        """Number of standard deviations of noise that are kept."""
        allowed = _CUT * self.delta / (len(self.steps) * self.steps[step])
        return next((kept for kept in range(_SHORTEST, _LONGEST) if step.tail(kept) <= allowed), _LONGEST)

    def _exponent(self) -> int:
        # A single release needs no transform, so a finer grid is cheap.
        fineness = _FINENESS / 32 if self.times == 1 else _FINENESS
        ends = [step.bounds(self.direction, kept) for step, kept in self.deviations.items()]
        finest = min(_COARSEST, fineness * math.sqrt(self.variance / self.times))
        return math.floor(math.log2(max(finest, max(most - least for least, most in ends) / _POINTS)))

    def masses(self, step: SampledGaussian) -> Masses:
        """The discretised privacy loss of one release."""
        return discretised(step, self.exponent, self.direction, self.deviations[step])

    def log_mgf(self, order: float, coarser: int = 0) -> float:
        """K(t) of the composition, on the grid made eight times coarser ``coarser`` times."""
        return sum(
            times * log_mgf(step, self.exponent, self.direction, self.deviations[step], order, coarser)
            for step, times in self.steps.items()
        )

    def _chernoff(self) -> tuple[int, float]:
        # Start at the best tilt for a normal distribution; a long tail needs a smaller one.
        start = 0.5 * math.log2(-2 * math.log(self.delta) / self.variance)
        room = math.log(self.delta * (1 - 2 * _CUT))

        def bound(place: int) -> float:
            return (self.log_mgf(_tilt(place), 1) + _log_largest_weight(_tilt(place)) - room) / _tilt(place)

        return _first_minimum(bound, round(start / _TILTS))

    @property
    def tilt(self) -> float:
        """t, the tilt of the composition; at first the one at which Chernoff's bound on ε is least."""
        return _tilt(self.place)

    def window(self) -> tuple[int, int]:
        """First and last grid point of all but twice ``_OUTSIDE`` of the tilted sum, by Chernoff's bound at a few orders."""
        interval, tilt = 2.0**self.exponent, self.tilt
        lowest = sum(times * self.masses(step).lowest for step, times in self.steps.items())
        highest = sum(times * self.masses(step).highest for step, times in self.steps.items())
        if self.times == 1:
            return lowest, max(highest, 0)
        inside = self.log_mgf(tilt)
        # The coarser grid is quick and bounds the finer one; after many releases the bound is too loose.
        coarser = 1 if self.log_mgf(tilt, 1) - inside < 1 else 0

        def bound(order: float) -> float:
            return (self.log_mgf(tilt + order, coarser) - inside - math.log(_OUTSIDE)) / abs(order) / interval

        start = round(math.log2(math.sqrt(-2 * math.log(_OUTSIDE) / self.variance)))
        below = -_first_minimum(lambda place: bound(-(2.0**place)), start)[1]
        above = _first_minimum(lambda place: bound(2.0**place), start)[1]
        end = max(min(highest, math.ceil(above)), 0)
        return min(max(lowest, math.floor(below)), end), end

    def epsilon(self) -> float:
        """ε of the composition at its δ; the least over several tilts and grids."""
        best = math.inf
        for _ in range(_PASSES):
            loss = self.distribution()
            found = loss.epsilon(self.delta)
            best = min(best, found)
            points = max(len(self.masses(step).mass_L) for step in self.steps)
            # A larger grid is not worth a difference that cannot be seen in a small ε.
            allowed = _TOLERANCE * (best if 2 * points <= _POINTS else max(1.0, best))
            if found > 0 and loss.hidden(found) > self.delta * -math.expm1(-self.tilt * allowed) and self._tilt_for(best):
                continue
            raised = self._raised()
            if raised <= allowed or 2 * points > _MOST_POINTS or self.times == 1 or self.longest_window:
                break
            self.exponent -= 1 if raised <= 4 * allowed else 2
        return best

    def _tilt_for(self, epsilon: float) -> bool:
        """Change to the tilt at which Chernoff's bound on δ(ε) is least; False if it is the present one."""

        def bound(place: int) -> float:
            t = _tilt(place)
            return self.log_mgf(t, 1) + _log_largest_weight(t) - t * epsilon

        before, self.place = self.place, _first_minimum(bound, self.place)[0]
        return self.place != before

    def _raised(self) -> float:
        """Estimate of how much the grid raises ε, from grids eight and 64 times coarser (Richardson extrapolation)."""
        exact, near, far = (self.log_mgf(self.tilt, power) for power in (0, 1, 2))
        return (near - exact) / self.tilt / max((far - near) / max(near - exact, 1e-300) - 1, 7.0)

    def distribution(self) -> PrivacyLossDistribution:
        """Privacy loss distribution of all releases together, at the present tilt."""
        tilt = self.tilt
        lowest, highest = self.window()
        while highest - lowest >= _WINDOW:
            self.longest_window = True
            self.exponent += math.ceil(math.log2((highest - lowest + 1) / _WINDOW))
            lowest, highest = self.window()
        size = _quick_size(highest - lowest + 1)
        left = np.zeros(size // 2 + 1)
        start, finite, off = 0, 0.0, 2 * _OUTSIDE if self.times > 1 else 0.0
        spectra = {step: self._spectrum(step, tilt, size) for step in self.steps}
        for step, times in self.steps.items():
            _, log_size, step_off = spectra[step]
            left += times * log_size
            start += times * self.masses(step).lowest
            finite += times * math.log1p(-self.masses(step).infinite)
            off += times * step_off
        # High powers leave almost nothing of most frequencies.
        seen = np.flatnonzero(left > _NOTHING)
        spectrum = np.zeros(size // 2 + 1, np.complex128)
        spectrum[seen] = np.exp(sum(times * np.log(spectra[step][0][seen]) for step, times in self.steps.items()))
        # For an ε from 0 on, only losses from 0 on matter.
        first = max(lowest, 0)
        mass_L = np.roll(fft.irfft(spectrum, size), (start - first) % size)[: highest - first + 1]
        off += self._rounded(float(np.linalg.norm(spectrum)), size)
        log_mgf_ = self.log_mgf(tilt)
        return PrivacyLossDistribution(
            2.0**self.exponent, first, np.maximum(mass_L, 0.0), -math.expm1(finite), tilt, log_mgf_, off
        )

    def _rounded(self, norm: float, size: int) -> float:
        """Bound on the rounding of the tilted masses, in their sum: √n times its root mean square over the frequencies.

        A frequency's factor F is off by 4 log₂ n + 8 units, so F^T is off by T |F|^(T−1) times that. If the product is above
        exp(−50), |F| is above exp(−50/T).
        """
        unit = (_STAGE * math.log2(size) + 8) * ROUNDOFF
        # A real transform has half of the frequencies.
        root, norm = math.sqrt(size), math.sqrt(2) * norm
        weights = (times * min(math.exp(min(-_NOTHING / times, _LARGEST)) * norm, root) for times in self.steps.values())
        return unit * (sum(weights) + root) + root * math.exp(_NOTHING)

    def _spectrum(self, step: SampledGaussian, tilt: float, size: int) -> tuple[NDArray[np.complex128], Floats, float]:
        return _spectrum(step, self.exponent, self.direction, self.deviations[step], tilt, size)


def _tilt(place: int) -> float:
    return float(2.0 ** (place * _TILTS))


def _log_largest_weight(tilt: float) -> float:
    """Log of the largest weight of a tilted mass in δ(ε) exp(t ε − K): max over u ≥ 0 of exp(−t u) (1 − exp(−u))."""
    return tilt * math.log(tilt) - (1 + tilt) * math.log1p(tilt)


def _quick_size(least: int) -> int:
    """The least of 4, 5, 6 or 7 times a power of two that fits: quick to transform, and few sizes fill the cache."""
    unit = 1 << max(0, least.bit_length() - 3)
    return -(-least // unit) * unit


@functools.lru_cache(maxsize=32)
def _spectrum(
    step: SampledGaussian, exponent: int, direction: Direction, deviations: int, tilt: float, size: int
) -> tuple[NDArray[np.complex128], Floats, float]:
    """Fourier transform of one release's tilted masses, the log of its absolute value, and a bound on the masses' error.

    The composition is read modulo ``size``, so one release is needed modulo ``size`` only.
    """
    part = discretised(step, exponent, direction, deviations)
    at = log_mgf(step, exponent, direction, deviations, tilt, 0)
    tilted_L = np.exp(tilt * part.losses + part.log_masses - at)
    # exp is off by the rounding of its argument: over all masses m by Σ m |log m| ≤ log n, and by the part of the tilt.
    off = ROUNDOFF * (4 * tilt * float(tilted_L @ np.abs(part.losses)) + 2 * math.log(len(tilted_L)) + 3 * abs(at) + 8)
    if len(tilted_L) > size:
        tilted_L = np.bincount(np.arange(len(tilted_L)) % size, tilted_L, size)
    found = np.asarray(fft.rfft(tilted_L, size), np.complex128)
    with np.errstate(divide="ignore"):
        return found, 0.5 * np.log(np.square(found.real) + np.square(found.imag)), off


def _first_minimum(value: Callable[[int], float], start: int) -> tuple[int, float]:
    """Place and value of the minimum of a function of integers with one minimum, to 1e-4, from a first guess."""
    place, best = start, value(start)
    for step in (-1, 1):
        while (found := value(place + step)) < best - 1e-4 * abs(best):
            place, best = place + step, found
        if place != start:
            break
    return place, best
