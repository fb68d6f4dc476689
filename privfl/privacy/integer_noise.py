"""Exact samples of integer noise: the discrete Gaussian and Skellam.

Both are drawn by inversion: a uniform number U in [0, 1) falls between two values of the distribution function F. The first
64 bits of U nearly always decide, by a table of ⌊2^64 F(k)⌋. If they equal the first bits of some F(k), more bits of U are
drawn and compared with more bits of F. F is computed in integers with a bound on the error, to as many bits as it takes to
know each floor, so no rounding of any kind enters the distribution.

The running time depends on the values drawn, because Python's integers and a binary search are used. Timing attacks are not
prevented.

Sources: Canonne, Kamath & Steinke 2020, "The discrete Gaussian for differential privacy"; Agarwal, Kairouz & Liu 2021, "The
Skellam mechanism for differentially private federated learning".
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfl.errors import PrivacyError
from privfl.privacy.streams import RandomStream

Integers = NDArray[np.int64]

LARGEST_VARIANCE: Final = 2.0**44
"""Largest variance σ² of a sample; more noise needs a coarser scale."""

_WORD: Final = 64

# Number of leading bits that index a table.
_ENTRY: Final = 16

# A table has about thirty entries for each unit of standard deviation. Above this variance a sample is the sum of two
# samples, one in units of _UNIT and one of variance _LOWER.
_ONE_TABLE: Final = 2**20
_UNIT: Final = 64
_LOWER: Final = 2**16


def discrete_gaussian(variance: float, count: int, stream: RandomStream) -> Integers:
    """Samples of N_Z(0, σ²): P(k) ∝ exp(−k² / 2σ²) for all integers k.

    **Guarantees.** Given uniform and independent words, the distribution is exactly the one named for σ² up to 2^20. Above,
    every probability is the named one times a factor within 1 ± 1e-100: the sample is 64 X + Y, with Y of variance 2^16
    and X of variance (σ² − 2^16) / 64². The product of the two weights at x is

    exp(−(x − 64 j)² / 2·2^16) exp(−j² / 2σ_X²) = exp(−x² / 2σ²) exp(−(j − c)² / 2s²),  s = 256 σ_X / σ ≥ 3.8,

    and a sum of the last factor over all integers j depends on c by a factor within 1 ± 3 exp(−2π² s²) (Poisson's summation
    formula).

    Args:
        variance: the parameter σ², above 0 and at most ``LARGEST_VARIANCE``; the exact rational value of the float.
        count: number of samples.
        stream: gives a word for each sample, seldom more.

    Raises:
        PrivacyError: the variance is out of range.
    """
    _check(variance)
    return _gaussian(Fraction(variance), count, stream)


def skellam(variance: float, count: int, stream: RandomStream) -> Integers:
    """Samples of the difference of two independent Poisson variables of mean ``variance`` / 2.

    **Guarantees.** Given uniform and independent words, the distribution is exactly the one named.

    Args:
        variance: above 0 and at most 1e8; the exact rational value of the float.
        count: number of samples.
        stream: gives two words for each sample, seldom more.

    Raises:
        PrivacyError: the variance is out of range.
    """
    _check(variance, 1e8)
    mean = Fraction(variance) / 2
    return _inverted(_poisson_weights, mean, count, stream) - _inverted(_poisson_weights, mean, count, stream)


def _check(variance: float, largest: float = LARGEST_VARIANCE) -> None:
    if not 0 < variance <= largest:
        raise PrivacyError(
            f"integer noise of variance {variance}: must be above 0 and at most {largest:g}; choose another scale"
        )


def _gaussian(variance: Fraction, count: int, stream: RandomStream) -> Integers:
    if variance <= _ONE_TABLE:
        return _inverted(_gaussian_weights, variance, count, stream)
    sample_N = _gaussian((variance - _LOWER) / _UNIT**2, count, stream)
    sample_N *= _UNIT
    sample_N += _inverted(_gaussian_weights, Fraction(_LOWER), count, stream)
    return sample_N


@dataclass(frozen=True)
class _Weights:
    """Weights of the integers from ``first`` on: their probabilities up to one common factor.

    Each weight is off by at most ``error``. The weights left out add up to at most ``tail``.
    """

    first: int
    weight_K: list[int]
    error: int
    tail: int


# Weights for a parameter and a number of bits p, with a relative error of about 2^-p in all sums of weights together.
_Distribution = Callable[[Fraction, int], _Weights]


def _gaussian_weights(variance: Fraction, bits: int) -> _Weights:
    """Weights exp(−k²/2σ²) for |k| ≤ K, with K²/2σ² > p."""
    last = math.isqrt(math.ceil(2 * variance * (bits + 8))) + 1
    precision = bits + 4 * last.bit_length() + 8
    with localcontext() as context:
        context.prec = math.ceil(precision * 0.302) + 20
        ratio = (Decimal(-variance.denominator) / Decimal(2 * variance.numerator)).exp()
        growth = int(ratio * (1 << precision))
    # w(0) = 1, w(k+1) = w(k) g(k); g(0) = r = exp(−1/2σ²), g(k+1) = g(k) r²
    weight, square = 1 << precision, (growth * growth) >> precision
    half = [weight]
    for _ in range(last):
        weight = (weight * growth) >> precision
        growth = (growth * square) >> precision
        half.append(weight)
    # r is off by 1 unit, r² by 4, so g(k) by 6k + 1, and w(K) by the sum of these and of 2 for each step.
    error = 4 * (last + 1) ** 2
    # Σ_{k>K} exp(−k²/2σ²) ≤ σ²/K exp(−K²/2σ²) ≤ σ² 2^-(p + 8), on each side; at least one unit
    tail = 2 * ((math.ceil(variance) << precision) >> (bits + 8)) + 2
    return _Weights(-last, half[:0:-1] + half, error, tail)


def _poisson_weights(mean: Fraction, bits: int) -> _Weights:
    """Weights λ^k / k! over the largest one, for all k at which they are not 0 at the precision."""
    precision = bits + 2 * (math.isqrt(math.ceil(mean)) + 8).bit_length() + 24
    mode = math.floor(mean)
    above = _falling(1 << precision, ((mean.numerator, mean.denominator * k) for k in itertools.count(mode + 1)))
    below = _falling(1 << precision, ((mean.denominator * k, mean.numerator) for k in range(mode, 0, -1)))
    # Every factor is at most 1, so each step adds at most one unit.
    error = max(len(above), len(below)) + 1
    last, first = mode + len(above), mode - len(below)
    # Beyond each end a weight is at most the error and falls at least as fast as a geometric series.
    tail = error * math.ceil((last + 1) / (last + 1 - mean))
    if first > 0:
        tail += error * math.ceil(mean / (mean - first))
    return _Weights(first, [*reversed(below), 1 << precision, *above], error, tail)


def _falling(weight: int, factors: Iterable[tuple[int, int]]) -> list[int]:
    """The products of a weight and one factor after another, down to 0; without the weight itself, with the 0."""
    found = []
    for numerator, denominator in factors:
        weight = weight * numerator // denominator
        found.append(weight)
        if not weight:
            break
    return found


@functools.lru_cache(maxsize=8)
def _floors(distribution: _Distribution, parameter: Fraction, bits: int) -> tuple[int, list[int]]:
    """The first integer k of a table, and the exact ⌊2^bits F(k)⌋ of it and of those that follow."""
    guard = 48
    while True:
        weights = distribution(parameter, bits + guard)
        total, off = sum(weights.weight_K), len(weights.weight_K) * weights.error + weights.tail
        cumulative = list(itertools.accumulate(weights.weight_K))
        # F(k) lies between (c − off) / (total + off) and (c + off) / (total − off), and in (0, 1).
        low = [max(0, ((part - off) << bits) // (total + off)) for part in cumulative]
        high = [min((1 << bits) - 1, ((part + off) << bits) // (total - off)) for part in cumulative]
        if low == high:
            return weights.first, low
        guard *= 2


@dataclass(frozen=True)
class _Table:
    """Table of ⌊2^bits F(k)⌋ from k = ``first`` on, with an index by the leading bits of a word.

    ``place_E`` is the number of floors below the smallest word with these leading bits. If ``sure_E`` is true, no word with
    them equals a floor, and all of them have that same number of floors below.
    """

    first: int
    floor_K: NDArray[np.uint64]
    place_E: NDArray[np.int64]
    sure_E: NDArray[np.bool_]


@functools.lru_cache(maxsize=16)
def _table(distribution: _Distribution, parameter: Fraction, bits: int) -> _Table:
    first, floors = _floors(distribution, parameter, bits)
    floor_K = np.array(floors, np.uint64)
    width = np.uint64(max(0, bits - _ENTRY))
    begin_E = np.arange(2 ** min(bits, _ENTRY), dtype=np.uint64) << width
    place_E = np.searchsorted(floor_K, begin_E, side="left")
    end_E = np.searchsorted(floor_K, begin_E + ((np.uint64(1) << width) - np.uint64(1)), side="right")
    return _Table(first, floor_K, place_E.astype(np.int64), (place_E == end_E) & (place_E < len(floor_K)))


def _inverted(
    distribution: _Distribution, parameter: Fraction, count: int, stream: RandomStream, bits: int = _WORD
) -> Integers:
    """Samples by inversion, each from the upper ``bits`` of one word, and from further words if these do not decide."""
    table = _table(distribution, parameter, bits)
    leading_N = stream.words(count) >> np.uint64(_WORD - bits)
    entry_N = leading_N >> np.uint64(max(0, bits - _ENTRY))
    place_N = table.place_E[entry_N]
    unsure = np.flatnonzero(~table.sure_E[entry_N])
    # If the floor is below U's bits then F(k) ≤ U for certain; if it is above them then U < F(k).
    place_N[unsure] = np.searchsorted(table.floor_K, leading_N[unsure], side="left")
    sample_N: Integers = place_N + table.first
    last = len(table.floor_K) - 1
    for at in unsure[(place_N[unsure] > last) | (table.floor_K[np.minimum(place_N[unsure], last)] == leading_N[unsure])]:
        sample_N[at] = _refined(distribution, parameter, int(leading_N[at]), bits, stream)
    return sample_N


def _refined(distribution: _Distribution, parameter: Fraction, leading: int, bits: int, stream: RandomStream) -> int:
    """One sample by inversion of a U that begins with the bits ``leading``."""
    while True:
        bits, leading = bits + _WORD, (leading << _WORD) | int(stream.words(1)[0])
        first, floors = _floors(distribution, parameter, bits)
        place = bisect.bisect_left(floors, leading)
        if place < len(floors) and floors[place] != leading:
            return first + place
