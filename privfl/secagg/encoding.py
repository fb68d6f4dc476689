"""Real vectors become integers modulo 2^32: clipped, scaled, rounded at random, in two's complement.

Modulo 2^32 a sum is exact whatever the order, and a uniform mask hides perfectly; in floating point neither holds. The
one danger is a sum that wraps around, and it is excluded when a :class:`FixedPoint` is made:

    population · (bound · scale + 1) < 2^31

A client's entry is below bound · scale + 1 in absolute value (the 1 is for rounding), so that a sum over at most
``population`` clients stays inside the signed 32-bit integers.

Source: the discretisation of Bonawitz et al. 2019, "Federated Learning with Autotuned Communication-Efficient Secure
Aggregation" (Asilomar 2019), section III, without its rotation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ConfigError, ProtocolError
from privfl.secagg.prg import CHUNK, Keystream, Words, chunks

Floats = NDArray[np.floating[Any]]

# Random bits that decide one rounding.
_DITHER: Final = 32


@dataclass(frozen=True)
class FixedPoint:
    """Numbers in [-bound, bound] as multiples of 1/scale; ``scale`` is a power of two, at least 1."""

    bound: float
    scale: int

    @classmethod
    def fit(cls, bound: float, population: int) -> Self:
        """The finest scale with which no sum over ``population`` clients can wrap around.

        Raises:
            ConfigError: there is none, or the bound or the population is not positive and finite.
        """
        if not (0 < bound < math.inf and population >= 1):
            raise ConfigError(f"bound {bound} and population {population}: both must be positive and finite")
        # population · (bound · scale + 1) < 2^31  <=>  scale < room
        room = (Fraction(2**31, population) - 1) / Fraction(bound)
        largest = math.ceil(room) - 1
        if largest < 1:
            raise ConfigError(
                f"a sum over {population} clients of entries up to {bound} does not fit into 32 bits: "
                f"population · (bound + 1) must be below 2^31; lower the clip"
            )
        return cls(bound, 1 << (largest.bit_length() - 1))

    def encode(self, values_D: Floats, factor: float, stream: Keystream, out_D: Words) -> int:
        """Write round(factor · clip(values, ±bound) · scale), rounded at random, into ``out_D``.

        Args:
            values_D: the numbers, float32 or float64.
            factor: in [0, 1].
            stream: takes one word for each entry.
            out_D: as long as ``values_D``.

        Returns:
            how many entries were clipped.

        Guarantees: each entry is off by less than one step, 1/scale, and its expectation over the stream by at most 2^-33
        of a step; to both comes 2^-53 of the entry where factor · value is no float64. Multiples of a step, zero among
        them, are exact. |entry| < bound · scale + 1.

        Raises:
            ProtocolError: an entry is not finite.
        """
        clipped = 0
        scaled = factor * self.scale * 2.0**_DITHER
        scratch = np.empty(CHUNK, np.uint32)
        for chunk in chunks(len(values_D)):
            part = values_D[chunk]
            low, high = float(part.min()), float(part.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                at = chunk.start + int(np.flatnonzero(~np.isfinite(part))[0])
                raise ProtocolError(f"entry {at} of the update is {values_D[at]}; only finite numbers can be aggregated")
            if low < -self.bound or high > self.bound:
                # In float32 the bound itself would be rounded, perhaps upwards.
                part = part.astype(np.float64)
                clipped += int(np.count_nonzero(np.abs(part) > self.bound))
                part = np.clip(part, -self.bound, self.bound)
            dither = scratch[: len(part)]
            stream.fill(dither)
            # floor(x + u) with u uniform on multiples of 2^-32 in [0, 1), in integers: below 2^63 because |x| < 2^31 - 1.
            integers = np.rint(np.multiply(part, scaled, dtype=np.float64)).astype(np.int64)
            integers += dither
            integers >>= _DITHER
            out_D[chunk] = integers.astype(np.uint32)
        return clipped

    def decode(self, sum_D: Words, clients: int) -> NDArray[np.float64]:
        """The sum of ``clients`` encoded vectors as real numbers, exact.

        Raises:
            ProtocolError: an entry is larger than that many clients can make it. A mask that did not cancel looks so.
        """
        signed_D = sum_D.view(np.int32)
        limit = clients * (self.bound * self.scale + 1)
        if max(-int(signed_D.min()), int(signed_D.max())) > limit:
            raise ProtocolError(f"the sum is noise: an entry exceeds what {clients} clients can add up to; discard the round")
        return signed_D / np.float64(self.scale)


@dataclass(frozen=True)
class WeightedSum:
    """What the server learns: Σ weight · update, of length D, and Σ weight over the cohort."""

    sum_D: NDArray[np.float64]
    weight_sum: float

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean of the updates, of length D."""
        return self.sum_D / self.weight_sum


@dataclass(frozen=True)
class Encoding:
    """A client's (weight · update, weight) as one vector of D + 1 words.

    The weight travels inside the masked vector: in the clear it would tell how much data a client has. It has its own
    scale, so that its precision does not depend on the clip.
    """

    update: FixedPoint
    weight: FixedPoint

    @classmethod
    def fit(cls, clip: float, population: int) -> Self:
        """The finest encoding of updates in [-clip, clip] and weights in [0, 1] for that many clients.

        Raises:
            ConfigError: the sum cannot be made to fit into 32 bits.
        """
        return cls(FixedPoint.fit(clip, population), FixedPoint.fit(1.0, population))

    def encode(self, delta_D: Floats, weight: float, rounding_key: bytes) -> tuple[Words, int]:
        """The D + 1 words, and how many coordinates were clipped.

        Args:
            delta_D: the update; clipped coordinate by coordinate before it is weighted.
            weight: in [0, 1].
            rounding_key: 32 bytes, for this vector alone. Equal keys give equal words.

        Raises:
            ProtocolError: the update is not finite, or the weight is outside [0, 1].
        """
        if not 0 <= weight <= 1:
            raise ProtocolError(f"weight {weight}: must be in [0, 1]; divide all weights by the largest one allowed")
        words = np.empty(len(delta_D) + 1, np.uint32)
        stream = Keystream(rounding_key)
        clipped = self.update.encode(delta_D, weight, stream, words[:-1])
        self.weight.encode(np.array([weight]), 1.0, stream, words[-1:])
        return words, clipped

    def decode(self, sum_D1: Words, clients: int) -> WeightedSum:
        """The sum modulo 2^32 of ``clients`` encoded vectors, decoded.

        Raises:
            ProtocolError: no cohort of that size can have made this sum, or its weights add up to nothing.
        """
        sum_D = self.update.decode(sum_D1[:-1], clients)
        weight_sum = float(self.weight.decode(sum_D1[-1:], clients)[0])
        if weight_sum <= 0:
            raise ProtocolError(f"the weights add up to {weight_sum}; at least one client must have a positive weight")
        return WeightedSum(sum_D, weight_sum)
