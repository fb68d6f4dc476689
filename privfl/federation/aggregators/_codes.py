"""Encodings of the secure sum: an update becomes words, and a sum of words becomes the sum that the server learns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from privfl.federation.aggregators import ClientUpdate, RoundContext
from privfl.federation.aggregators._encoded import as_array, encoded, rounding_key
from privfl.privacy.distributed import DistributedCodec
from privfl.privacy.streams import RandomStream
from privfl.secagg.agreement import hkdf
from privfl.secagg.encoding import Encoding, WeightedSum, signed
from privfl.secagg.packing import TYPES, Bits, narrow_bits
from privfl.secagg.prg import Words


class Code(Protocol):
    """An encoding: it turns updates into words, and a sum of words into the sum that the server learns."""

    @property
    def length(self) -> int: ...
    @property
    def bits(self) -> Bits: ...
    def digest(self) -> bytes: ...
    def encode(self, update: ClientUpdate) -> tuple[Words, int]: ...
    def decode(self, sum_: Words, clients: int) -> WeightedSum: ...
    def noise(self, words: Words) -> WeightedSum: ...


@dataclass(frozen=True)
class FixedPointCode:
    """The fixed-point encoding of weight · update, followed by the weight."""

    encoding: Encoding
    context: RoundContext

    @property
    def length(self) -> int:
        return self.context.layout.size + 1

    @property
    def bits(self) -> Bits:
        return self.encoding.bits

    def digest(self) -> bytes:
        return self.encoding.digest()

    def encode(self, update: ClientUpdate) -> tuple[Words, int]:
        return encoded(self.encoding, update, self.context)

    def decode(self, sum_: Words, clients: int) -> WeightedSum:
        return self.encoding.decode(sum_, clients)

    def noise(self, words: Words) -> WeightedSum:
        """Words that are no sum, read as one."""
        values, bits = self.encoding, self.bits
        weight = signed(words[-1:], bits)[0] / np.float64(values.weight.scale)
        return WeightedSum(signed(words[:-1], bits) / np.float64(values.update.scale), float(weight))


@dataclass(frozen=True)
class NoisedCode:
    """The encoding of a clipped, rotated and rounded update with its share of the noise. Every client has the same weight."""

    codec: DistributedCodec
    context: RoundContext

    @property
    def length(self) -> int:
        return self.codec.length

    @property
    def bits(self) -> Bits:
        return narrow_bits(self.codec.bits)

    def digest(self) -> bytes:
        return hashlib.sha256(self.codec.to_bytes()).digest()

    def encode(self, update: ClientUpdate) -> tuple[Words, int]:
        rounding = RandomStream(rounding_key(self.context, update.client))
        share = hkdf(self.context.noise_key, salt=b"privfl noise share", info=update.client.to_bytes(4, "little"))
        words = self.codec.encode(as_array(update.delta_D), rounding, RandomStream(share))
        return words.astype(TYPES[self.bits], copy=False), 0

    def decode(self, sum_: Words, clients: int) -> WeightedSum:
        return WeightedSum(self.codec.decode(sum_.astype(np.uint32, copy=False)), float(clients))

    def noise(self, words: Words) -> WeightedSum:
        return self.decode(words, 1)
