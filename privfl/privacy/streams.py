"""A 32-byte key becomes one stream of random words: the keystream of AES-256 in counter mode.

The noise of the integer mechanisms and of secure mode is made from it. A statistical generator would not do: its state can be
recovered from what it puts out, and with it all noise.

Sources: NIST FIPS 197, NIST SP 800-38A section 6.5.
"""

from __future__ import annotations

import secrets
from typing import Final, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

# 128 KiB at a time stay in the second-level cache.
_ZEROS: Final = memoryview(bytes(131_072))


class RandomStream:
    """The stream of one key; every word of it is handed out once.

    **Guarantees.** To whoever lacks the key the words are indistinguishable from uniform and independent ones, as long as
    AES-256 is a pseudo-random permutation; the distance grows as (blocks)²/2^129. Whoever has the key can recompute
    everything: a key from a seed makes an experiment repeatable, not private. Streams of different keys are unrelated;
    two streams of one key are the same stream, so a key must be used for one purpose, once.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def from_os(cls) -> Self:
        """A stream of a fresh key from the operating system, which nobody keeps."""
        return cls(secrets.token_bytes(32))

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` words of 64 bits, little-endian."""
        out = np.empty(count, np.uint64)
        view = out.data.cast("B") if count else memoryview(bytearray())
        for start in range(0, len(view), len(_ZEROS)):
            part = view[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: len(part)], part)
        return out
