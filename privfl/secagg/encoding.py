"""Fixed-point encoding of real vectors as integers modulo 2^bits: clipped, scaled, rounded at random, in two's complement.

Modulo 2^bits a sum is exact in any order, and a uniform mask hides perfectly; in floating point neither holds. The one danger
is a sum that wraps around, which :meth:`FixedPoint.fit` excludes by its choice of the scale:

    population · (bound · scale + 1) < 2^(bits − 1)

A client's entry is below bound · scale + 1 in absolute value (the 1 is for rounding), so that a sum over at most
``population`` clients stays within the signed integers of that many bits. 64 bits leave room for any possible population; an
entry then has the precision that 32 bits leave to a population of one.

Source: the discretisation of Bonawitz et al. 2019, "Federated Learning with Autotuned Communication-Efficient Secure
Aggregation" (Asilomar 2019), section III, without its rotation.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ConfigError, ProtocolError
from privfl.secagg.packing import TYPES, Bits
from privfl.secagg.prg import Keystream, Words, chunks

Floats = NDArray[np.floating[Any]]

_LABEL: Final = b"privfl fixed point"
_BYTES: Final = struct.Struct("<BdQdQ")

# Number of random bits that decide one rounding.
_DITHER: Final = 32

# An entry and its random bits share a signed word of 64 bits.
_ENTRY_BITS: Final = 31


@dataclass(frozen=True)
class FixedPoint:
    """Fixed-point format: numbers in [-bound, bound] as multiples of 1/scale; ``scale`` is a power of two, at least 1."""

    bound: float
    scale: int
    bits: Bits = 32

    @classmethod
    def fit(cls, bound: float, population: int, bits: Bits = 32) -> Self:
        """The format with the finest scale at which no sum over ``population`` clients can wrap around.

        Raises:
            ConfigError: there is none, or the bound or the population is not positive and finite.
        """
        if not (0 < bound < math.inf and population >= 1):
            raise ConfigError(f"bound {bound} and population {population}: both must be positive and finite")
        # population · (bound · scale + 1) < 2^(bits − 1)  <=>  scale < room; and an entry fits into _ENTRY_BITS.
        room = (min(Fraction(2 ** (bits - 1), population), Fraction(2**_ENTRY_BITS)) - 1) / Fraction(bound)
        largest = math.ceil(room) - 1
        if largest < 1:
            raise ConfigError(
                f"a sum over {population} clients of entries up to {bound} does not fit into {bits} bits: "
                f"population · (bound + 1) must be below 2^{bits - 1}; lower the clip or allow more bits"
            )
        return cls(bound, 1 << (largest.bit_length() - 1), bits)

    def encode(self, values_D: Floats, factor: float, stream: Keystream, out_D: Words) -> int:
        """Encode values: write factor · clip(values, ±bound) · scale, rounded at random, into ``out_D``.

        Args:
            values_D: the numbers, float32 or float64.
            factor: factor in [0, 1].
            stream: keystream for the rounding, of which each entry takes one word.
            out_D: the words, as many as ``values_D``.

        Returns:
            The number of entries that were clipped.

        Guarantees: each entry is off by less than one step, 1/scale, and its expectation over the stream by at most 2^-33 of a
        step. If factor · value is no float64, 2^-53 of the entry is added to both bounds. Multiples of a step, zero among them,
        are exact. |entry| < bound · scale + 1.

        Raises:
            ProtocolError: an entry is not finite.
        """
        clipped = 0
        scaled = factor * self.scale * 2.0**_DITHER
        slices = list(chunks(len(values_D)))
        scratch = np.empty(slices[0].stop if slices else 0, np.uint32)
        for chunk in slices:
            part = values_D[chunk]
            low, high = float(part.min()), float(part.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                at = chunk.start + int(np.flatnonzero(~np.isfinite(part))[0])
                raise ProtocolError(f"entry {at} of the update is {values_D[at]}; only finite numbers can be aggregated")
            if low < -self.bound or high > self.bound:
                # In float32 the bound itself would be rounded, possibly upwards.
                part = part.astype(np.float64)
                clipped += int(np.count_nonzero(np.abs(part) > self.bound))
                part = np.clip(part, -self.bound, self.bound)
            dither = scratch[: len(part)]
            stream.fill(dither)
            # floor(x + u) with u uniform on multiples of 2^-32 in [0, 1), in integers: below 2^63 because |x| < 2^31 - 1.
            integers = np.rint(np.multiply(part, scaled, dtype=np.float64)).astype(np.int64)
            integers += dither
            integers >>= _DITHER
            out_D[chunk] = integers.astype(out_D.dtype)
        return clipped

    def decode(self, sum_D: Words, clients: int) -> NDArray[np.float64]:
        """Decode the sum of ``clients`` encoded vectors to real numbers, exactly.

        Raises:
            ProtocolError: an entry is larger than a sum over that many clients can be, as after a mask that did not cancel.
        """
        signed_D = signed(sum_D, self.bits)
        limit = clients * (self.bound * self.scale + 1)
        if max(-int(signed_D.min()), int(signed_D.max())) > limit:
            raise ProtocolError(f"the sum is noise: an entry exceeds what {clients} clients can add up to; discard the round")
        return signed_D / np.float64(self.scale)


def signed(words_D: Words, bits: Bits) -> NDArray[np.signedinteger[Any]]:
    """The lower ``bits`` of each word as a signed integer in two's complement."""
    kind = np.dtype(f"<i{words_D.itemsize}")
    spare = 8 * words_D.itemsize - bits
    if spare == 0:
        return words_D.view(kind)
    shifted_D: NDArray[np.signedinteger[Any]] = np.left_shift(words_D, words_D.dtype.type(spare)).view(kind)
    low_D: NDArray[np.signedinteger[Any]] = np.right_shift(shifted_D, kind.type(spare))
    return low_D


@dataclass(frozen=True)
class WeightedSum:
    """Weighted sum, which is all that the server learns: Σ weight · update, of length D, and Σ weight."""

    sum_D: NDArray[np.float64]
    weight_sum: float

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean of the updates, of length D."""
        return self.sum_D / self.weight_sum


@dataclass(frozen=True)
class Encoding:
    """Encoding of a client's (weight · update, weight) as one vector of D + 1 words.

    The weight is sent inside the masked vector, since in the clear it would reveal how much data a client has. It has its own
    scale, so that its precision does not depend on the clip.
    """

    update: FixedPoint
    weight: FixedPoint

    @classmethod
    def fit(cls, clip: float, population: int, bits: Bits = 32) -> Self:
        """The finest encoding of updates in [-clip, clip] and weights in [0, 1] for that many clients.

        Raises:
            ConfigError: no scale lets the sum fit into so many bits.
        """
        return cls(FixedPoint.fit(clip, population, bits), FixedPoint.fit(1.0, population, bits))

    @property
    def bits(self) -> Bits:
        """The number of bits of each word."""
        return self.update.bits

    def to_bytes(self) -> bytes:
        """The settings that must be equal at all clients: label, bits u8, then bound f64 and scale u64 of update and weight."""
        return _LABEL + _BYTES.pack(self.bits, self.update.bound, self.update.scale, self.weight.bound, self.weight.scale)

    def digest(self) -> bytes:
        """SHA-256 of :meth:`to_bytes`, 32 bytes."""
        return hashlib.sha256(self.to_bytes()).digest()

    def encode(self, delta_D: Floats, weight: float, rounding_key: bytes) -> tuple[Words, int]:
        """Encode an update and its weight as D + 1 words; return them and the number of coordinates that were clipped.

        Args:
            delta_D: the update; each coordinate is clipped before it is weighted.
            weight: the weight, in [0, 1].
            rounding_key: 32 bytes, for this vector alone; equal keys round equal inputs equally.

        Raises:
            ProtocolError: the update is not finite, or the weight is outside [0, 1].
        """
        if not 0 <= weight <= 1:
            raise ProtocolError(f"weight {weight}: must be in [0, 1]; divide all weights by the largest one allowed")
        words = np.empty(len(delta_D) + 1, TYPES[self.bits])
        stream = Keystream(rounding_key)
        clipped = self.update.encode(delta_D, weight, stream, words[:-1])
        self.weight.encode(np.array([weight]), 1.0, stream, words[-1:])
        return words, clipped

    def decode(self, sum_D1: Words, clients: int) -> WeightedSum:
        """Decode the sum modulo 2^bits of ``clients`` encoded vectors.

        Raises:
            ProtocolError: no sum over that many clients can be so large, or the weights do not add up to more than 0.
        """
        sum_D = self.update.decode(sum_D1[:-1], clients)
        weight_sum = float(self.weight.decode(sum_D1[-1:], clients)[0])
        if weight_sum <= 0:
            raise ProtocolError(f"the weights add up to {weight_sum}; at least one client must have a positive weight")
        return WeightedSum(sum_D, weight_sum)
