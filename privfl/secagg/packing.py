"""Packing of vectors for transport: words of 16, 20, 24, 32 or 64 bits, without gaps.

A vector modulo 2^20 or 2^24 is kept in words of 32 bits. Masks cancel in the lower bits all the same, and only these are sent;
the upper bits are ignored. All numbers are little-endian. Two words of 20 bits take five bytes, the first word the lower half.
"""

from __future__ import annotations

from typing import Any, Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ConfigError, ProtocolError
from privfl.secagg.prg import Words

Bits = Literal[16, 20, 24, 32, 64]

TYPES: Final[dict[int, np.dtype[Any]]] = {
    16: np.dtype("<u2"),
    20: np.dtype("<u4"),
    24: np.dtype("<u4"),
    32: np.dtype("<u4"),
    64: np.dtype("<u8"),
}
"""The data type of a vector in memory, by the number of bits of its words."""


def narrow_bits(bits: int) -> Bits:
    """Check that a number of bits is an allowed one, and return it with that type.

    Raises:
        ConfigError: it is not.
    """
    for known in get_args(Bits):
        if bits == known:
            return cast(Bits, known)
    raise ConfigError(f"bits = {bits}: a word on the wire has {', '.join(map(str, get_args(Bits)))} bits; take one of these")


def packed_bytes(count: int, bits: Bits) -> int:
    """The number of bytes that ``count`` packed words take."""
    return (count * bits + 7) // 8


def pack(words_D: Words, bits: Bits) -> memoryview:
    """Pack the lower ``bits`` of every word; if that is all of it, the result is a view of the vector."""
    if bits == 8 * words_D.itemsize:
        return np.ascontiguousarray(words_D, TYPES[bits]).data.cast("B")
    if bits == 24:
        return np.ascontiguousarray(words_D.view(np.uint8).reshape(-1, 4)[:, :3]).data.cast("B")
    low = words_D & np.uint32(0xFFFFF)
    pairs = np.zeros(len(low) + len(low) % 2, np.uint64)
    pairs[: len(low)] = low
    joined = pairs[0::2] | pairs[1::2] << np.uint64(20)
    octets = np.ascontiguousarray(joined.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :5]).data.cast("B")
    return octets[: packed_bytes(len(words_D), bits)]


def unpack(payload: memoryview, count: int, bits: Bits) -> Words:
    """Unpack words; for 16, 32 and 64 bits the result is a read-only view of the payload.

    Args:
        payload: exactly :func:`packed_bytes` bytes. If 20 · count is no multiple of 8, the last four bits must be 0.
        count: number of words.
        bits: bits of each word.

    Raises:
        ProtocolError: the last four bits are not 0, so that the same words would have two encodings.
    """
    if bits in (16, 32, 64):
        return np.frombuffer(payload, TYPES[bits])
    octets = np.frombuffer(payload, np.uint8)
    if bits == 24:
        wide: NDArray[np.uint8] = np.zeros((count, 4), np.uint8)
        wide[:, :3] = octets.reshape(-1, 3)
        return wide.view("<u4").ravel()
    five = np.zeros((-(-count // 2), 8), np.uint8)
    filled = np.zeros(5 * len(five), np.uint8)
    filled[: len(octets)] = octets
    five[:, :5] = filled.reshape(-1, 5)
    joined = five.view("<u8").ravel()
    words = np.empty(2 * len(joined), np.uint32)
    words[0::2], words[1::2] = joined & np.uint64(0xFFFFF), joined >> np.uint64(20)
    if words[count:].any():
        raise ProtocolError("a vector whose last four bits, which belong to no word, are not 0; it is left out")
    return words[:count]
