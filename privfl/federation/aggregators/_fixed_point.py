"""Sums of floats that do not depend on the order: each is rounded once, to 64-bit fixed point, and integers are added."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

_BITS = 62
"""Of a sum: a sign and one bit to spare."""


@dataclass(frozen=True)
class FixedPoint64:
    """Integers that stand for multiples of 2^-``fraction``.

    A sum of K numbers of at most ``largest`` has 62 bits, so that a number keeps at least 61 - ⌈log₂ K⌉ bits of the largest
    one: for up to 256 clients as many as a float64 has.
    """

    fraction: int

    @classmethod
    def fit(cls, largest: float, count: int) -> FixedPoint64:
        """The finest steps in which no sum of ``count`` numbers of size ``largest`` overflows."""
        # largest < 2^exponent, count ≤ 2^⌈log₂ count⌉; a power of two that float64 still has is fine enough for anything.
        exponent = math.frexp(largest)[1]
        return cls(min(_BITS - exponent - (max(count, 1) - 1).bit_length(), 1000))

    def words(self, values_D: Tensor, weight: float = 1.0) -> Tensor:
        """``weight`` times the values, rounded to the nearest step, as int64.

        The product is that of float64: a power of two moves no bit of it.
        """
        return values_D.double().mul(weight * 2.0**self.fraction).round_().long()

    def values(self, words_D: Tensor) -> Tensor:
        """int64 -> float64."""
        return words_D.double() * 2.0**-self.fraction
