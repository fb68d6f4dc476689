"""Random words from a 32-byte key: the keystream of AES-256 in counter mode.

The integer mechanisms and secure mode make their noise from these words. A statistical generator would be unsafe: its output
reveals its state, and its state reveals all noise.

Sources: NIST FIPS 197, NIST SP 800-38A section 6.5.
"""

from __future__ import annotations

import secrets
from typing import Final, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

# Encrypt 128 KiB at a time, which stay in the second-level cache.
_ZEROS: Final = memoryview(bytes(131_072))


class RandomStream:
    """The stream of random words of one key; it gives out every word once.

    **Guarantees.** Without the key, the words are indistinguishable from uniform and independent ones if AES-256 is a
    pseudo-random permutation; the distance grows as (blocks)²/2^129. With the key, anybody can recompute them: a key from a
    seed makes an experiment repeatable, not private. Streams of different keys are unrelated. Two streams of one key are the
    same stream, so use a key for one purpose, once.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def from_os(cls) -> Self:
        """A stream whose key comes fresh from the operating system and is not kept."""
        return cls(secrets.token_bytes(32))

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` words of 64 bits, little-endian."""
        out = np.empty(count, np.uint64)
        view = out.data.cast("B") if count else memoryview(bytearray())
        for start in range(0, len(view), len(_ZEROS)):
            part = view[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: len(part)], part)
        return out
