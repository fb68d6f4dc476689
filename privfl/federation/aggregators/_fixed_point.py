"""Fixed-point sums that do not depend on the order: each float is rounded once to a 64-bit integer, and integers are added."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

_BITS = 62
"""Bits of a sum. The sign and one spare bit are left over."""


@dataclass(frozen=True)
class FixedPoint64:
    """A fixed-point code: 64-bit integers that stand for multiples of 2^-``fraction``.

    A sum of K numbers of size at most ``largest`` fits into 62 bits. A number as large as ``largest`` thus keeps at least 61 -
    ⌈log₂ K⌉ bits. For up to 256 clients that is as many bits as a float64 has.
    """

    fraction: int

    @classmethod
    def fit(cls, largest: float, count: int) -> FixedPoint64:
        """The code with the finest steps for which no sum of ``count`` numbers of size ``largest`` overflows."""
        # largest < 2^exponent and count ≤ 2^⌈log₂ count⌉. Steps need not be finer than a float64 can represent.
        exponent = math.frexp(largest)[1]
        return cls(min(_BITS - exponent - (max(count, 1) - 1).bit_length(), 1000))

    def words(self, values_D: Tensor, weight: float = 1.0) -> Tensor:
        """``weight`` times the values, rounded to the nearest step, as int64.

        The product is computed in float64 first. Multiplying by a power of two changes no bit of its mantissa.
        """
        return values_D.double().mul(weight * 2.0**self.fraction).round_().long()

    def values(self, words_D: Tensor) -> Tensor:
        """The float64 values of the integers."""
        return words_D.double() * 2.0**-self.fraction
