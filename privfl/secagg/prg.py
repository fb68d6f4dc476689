"""A 32-byte key becomes a stream of uint32 words: the keystream of AES-256 in counter mode.

On processors with AES instructions this is faster than any generator of NumPy, none of which may make a mask: they are
statistical, and their state can be recovered from what they put out.

Sources: NIST FIPS 197, NIST SP 800-38A section 6.5. Words are little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Words = NDArray[np.uint32]
"""A vector over the ring of integers modulo 2^32."""

# 128 KiB: scratch and a slice of the vector stay together in the second-level cache.
CHUNK: Final = 32_768

_ZEROS: Final = memoryview(bytes(4 * CHUNK))


class Keystream:
    """The stream of one key.

    Guarantees: without the key, indistinguishable from uniform words as long as AES-256 is a pseudo-random
    permutation; the distance from uniform grows as (blocks)²/2^129, which for 10^8 words is 2^-79. A key makes one stream:
    use it once.

    Args:
        key: 32 bytes.
        block: the 16-byte block (4 words) to begin at; any place of the stream can be reached directly.
    """

    def __init__(self, key: bytes, block: int = 0) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(block.to_bytes(16, "big"))).encryptor()

    def fill(self, scratch: Words) -> None:
        """Overwrite ``scratch`` (at most ``CHUNK`` words, contiguous) with the next words."""
        self._encryptor.update_into(_ZEROS[: scratch.nbytes], scratch.data.cast("B"))


def words(key: bytes, count: int) -> Words:
    """The first ``count`` words of the key's stream."""
    out = np.empty(count, np.uint32)
    stream = Keystream(key)
    for chunk in chunks(count):
        stream.fill(out[chunk])
    return out


def mask(vector_D: Words, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
    """Add the streams of some keys to a vector and subtract those of others, in place, modulo 2^32.

    All streams pass over one chunk before the next chunk is touched, so that the vector goes through memory once
    however many keys there are.

    Guarantees: with at least one key that the reader does not know, the result is indistinguishable from uniform and
    unrelated to the vector. With no key the vector stays as it was: callers must not let that happen.
    """
    plus, minus = [Keystream(key) for key in added], [Keystream(key) for key in subtracted]
    scratch = np.empty(CHUNK, np.uint32)
    for chunk in chunks(len(vector_D)):
        part = vector_D[chunk]
        stream_words = scratch[: len(part)]
        for stream in plus:
            stream.fill(stream_words)
            np.add(part, stream_words, out=part)
        for stream in minus:
            stream.fill(stream_words)
            np.subtract(part, stream_words, out=part)


def chunks(count: int) -> Iterator[slice]:
    """Consecutive slices of at most ``CHUNK`` that cover ``range(count)``."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))
