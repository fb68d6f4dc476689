"""Pseudo-random generator: it expands a 32-byte key to a stream of words, the keystream of AES-256 in counter mode.

NumPy's generators must not make masks: they are statistical generators, whose state can be recovered from their output. On
processors with AES instructions this one is faster than any of them as well.

Sources: NIST FIPS 197, NIST SP 800-38A section 6.5. Words are little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Words = NDArray[np.unsignedinteger[Any]]
"""A vector of integers modulo 2^16, 2^32 or 2^64, depending on its data type."""

CHUNK_BYTES: Final = 262_144
"""Size of a chunk of a vector, at which the chunk, the scratch space and the zeros about fit into the second-level cache."""

# Between two calls, threads pass the interpreter's lock to each other, which takes as long as filling some kilobytes.
_THREADED_BYTES: Final = 524_288

_BLOCK_BYTES: Final = 16
_ZEROS: Final = memoryview(bytes(_THREADED_BYTES))


class Keystream:
    """The keystream of one key.

    Guarantees: without the key, it is indistinguishable from uniform words as long as AES-256 is a pseudo-random permutation.
    The distance from uniform grows as (blocks)²/2^129, which for 10^8 words is 2^-79. A key makes one stream: use it once.

    Args:
        key: 32 bytes.
        block: number of the 16-byte block at which to begin; any block can be reached directly.
    """

    def __init__(self, key: bytes, block: int = 0) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(block.to_bytes(_BLOCK_BYTES, "big"))).encryptor()

    def fill(self, scratch: Words) -> None:
        """Overwrite ``scratch``, which must be contiguous, with the next words of the stream."""
        target = scratch.data.cast("B")
        for start in range(0, scratch.nbytes, CHUNK_BYTES):
            piece = target[start : start + CHUNK_BYTES]
            self._encryptor.update_into(_ZEROS[: len(piece)], piece)


def mask(vector_D: Words, added: Sequence[bytes], subtracted: Sequence[bytes], threads: int = 1) -> None:
    """Mask a vector in place: add the keystreams of some keys and subtract those of others, modulo 2^bits of its type.

    All streams are applied to one chunk before the next chunk is begun, so that the vector passes through memory once, however
    many keys there are. Threads divide the chunks among themselves, since counter mode reaches every block directly.

    Guarantees: if there is at least one key that the reader does not know, the result is indistinguishable from uniform and
    unrelated to the vector. Without any key the vector is not masked: callers must prevent that.

    Args:
        vector_D: the vector, contiguous, of an unsigned type.
        added: keys of 32 bytes.
        subtracted: keys of 32 bytes.
        threads: number of cores that may be used.
    """
    if threads <= 1 or len(vector_D) == 0:
        _mask_pieces(vector_D, list(chunks(len(vector_D), vector_D.itemsize)), added, subtracted)
        return
    share = -(-vector_D.nbytes // (threads * _BLOCK_BYTES)) * _BLOCK_BYTES
    pieces = list(chunks(len(vector_D), vector_D.itemsize, min(_THREADED_BYTES, max(share, _BLOCK_BYTES))))
    threads = min(threads, len(pieces))
    bounds = [len(pieces) * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        ranges = [pieces[low:high] for low, high in pairwise(bounds)]
        for done in [pool.submit(_mask_pieces, vector_D, one, added, subtracted) for one in ranges]:
            done.result()


def _mask_pieces(vector_D: Words, pieces: Sequence[slice], added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
    """The work of one thread: mask a run of neighbouring chunks."""
    block = pieces[0].start * vector_D.itemsize // _BLOCK_BYTES if pieces else 0
    plus = [Keystream(key, block)._encryptor.update_into for key in added]
    minus = [Keystream(key, block)._encryptor.update_into for key in subtracted]
    scratch = np.empty(max((piece.stop - piece.start for piece in pieces), default=0), vector_D.dtype)
    for chunk in pieces:
        part = vector_D[chunk]
        stream = scratch[: len(part)]
        target, zeros = stream.data.cast("B"), _ZEROS[: part.nbytes]
        for fill in plus:
            fill(zeros, target)
            np.add(part, stream, part)
        for fill in minus:
            fill(zeros, target)
            np.subtract(part, stream, part)


def chunks(count: int, itemsize: int = 4, size: int = CHUNK_BYTES) -> Iterator[slice]:
    """Consecutive slices that cover ``range(count)``, each of at most ``size`` bytes of elements of ``itemsize``."""
    length = size // itemsize
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))
