"""The base of transforms whose messages are integers of few bits and some floats, and are decoded one by one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privfl.federation.transforms import Shared, Transform
from privfl.seeding import Seed
from privfl.vectors import Layout


@dataclass(frozen=True)
class Code:
    """A message: integers from 0 to 2^bits − 1, and float32 numbers.

    Args:
        integers: the integers.
        bits: the bits of each; at least 1.
        floats: the numbers.
    """

    integers: NDArray[np.int64]
    bits: int
    floats: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """The floats, little-endian, and then the integers, the highest bit of each first, without gaps."""
        places = np.arange(self.bits - 1, -1, -1)
        planes = (self.integers[:, None] >> places) & 1
        return self.floats.astype("<f4").tobytes() + np.packbits(planes.astype(np.uint8)).tobytes()

    @classmethod
    def from_bytes(cls, sent: bytes, integers: int, bits: int, floats: int) -> Code:
        """The message of so many integers and floats that :meth:`to_bytes` wrote."""
        planes = np.unpackbits(np.frombuffer(sent[4 * floats :], np.uint8), count=integers * bits).reshape(integers, bits)
        values = planes.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
        return cls(values, bits, np.frombuffer(sent[: 4 * floats], "<f4").astype(np.float32))


class Coded(Transform):
    """A compressor whose message is a :class:`Code`. The aggregator is given what the server decodes it to."""

    linear: ClassVar[bool] = False

    @abstractmethod
    def counts(self, size: int) -> tuple[int, int, int]:
        """The numbers of integers, of bits of each, and of floats in the message for a payload of that many entries."""

    @abstractmethod
    def encode(self, payload_D: NDArray[np.float64], own: Seed) -> Code:
        """The message for a payload."""

    @abstractmethod
    def decode(self, code: Code, size: int, own: Seed) -> NDArray[np.float64]:
        """The vector of length ``size`` that a message stands for.

        Args:
            code: the message.
            size: D'.
            own: the client's randomness, as for :meth:`encode`. The server may use parts of it whose seed is in the message.
        """

    def message_bytes(self, layout: Layout) -> int:
        """Four bytes for each float, and the integers' bits, rounded up to a whole byte."""
        integers, bits, floats = self.counts(layout.size)
        return 4 * floats + -(-integers * bits // 8)

    def compress(self, payload_D: Tensor, shared: Shared, own: Seed) -> Tensor:  # noqa: ARG002
        """The decoded message, shape (D',). A payload that is not finite is passed on, and the checks that follow find it."""
        if not bool(payload_D.isfinite().all()):
            return payload_D
        code = self.encode(payload_D.detach().cpu().double().numpy(), own)
        return torch.from_numpy(self.decode(code, len(payload_D), own)).to(payload_D)


def bits_for(values: int) -> int:
    """The bits that tell so many values apart; at least 1."""
    return max(1, (values - 1).bit_length())
