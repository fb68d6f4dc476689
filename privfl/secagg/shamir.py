"""Shares of a secret: any t of them give it, fewer say nothing (Shamir 1979, "How to Share a Secret").

Each limb of the secret is the value at 0 of a random polynomial of degree t − 1; holder number x, from 1, gets its value
at x.

Guarantees: t − 1 shares are independent of the secret, exactly so for uniform coefficients; those here are AES-256-CTR
under a fresh key. Shares are not authenticated: whoever reconstructs must check what comes out.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError
from privfl.secagg import field

SHARE_BYTES: Final = 2 * field.LIMBS

Shares = NDArray[np.uint16]
"""A share a row, LIMBS numbers each."""


def split(secrets: list[bytes], holders: int, threshold: int, key: bytes) -> NDArray[np.uint16]:
    """Shares of several secrets, for holders 1 to ``holders``.

    Args:
        secrets: S secrets of 32 bytes.
        holders: at least ``threshold``, below the field's size.
        threshold: t, at least 1.
        key: 32 fresh bytes; the coefficients are made from it.

    Returns:
        shape (holders, S · LIMBS): row x − 1 is what holder x gets.

    Raises:
        ProtocolError: no such sharing exists.
    """
    if not 1 <= threshold <= holders < field.PRIME:
        raise ProtocolError(f"{threshold} of {holders} shares: must be 1 ≤ threshold ≤ holders < {field.PRIME}")
    constant = np.concatenate([field.limbs(secret) for secret in secrets])
    random = field.uniform((threshold - 1) * len(constant), key).reshape(threshold - 1, len(constant))
    return field.dot(_powers(holders, threshold), np.vstack([constant, random])).astype(np.uint16)


def combine(points: tuple[int, ...], shares: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The limbs of the secrets whose shares at ``points`` these are: exactly t of them.

    Args:
        points: the holders' numbers, distinct, from 1.
        shares: shape (t, columns); any number of secrets side by side.

    Returns:
        shape (columns,); :func:`privfl.secagg.field.secret` makes bytes of LIMBS of them.
    """
    limbs: NDArray[np.int64] = field.dot(_coefficients(points)[None, :], shares.astype(np.int64))[0]
    return limbs


@functools.lru_cache(maxsize=256)
def _coefficients(points: tuple[int, ...]) -> field.Elements:
    return field.lagrange_at_zero(np.array(points, np.int64))


@functools.lru_cache(maxsize=8)
def _powers(holders: int, threshold: int) -> field.Elements:
    """x^j for x from 1 to ``holders`` and j below ``threshold``."""
    points = np.arange(1, holders + 1, dtype=np.int64)
    powers = np.ones((holders, threshold), np.int64)
    for place in range(1, threshold):
        powers[:, place] = powers[:, place - 1] * points % field.PRIME
    return powers
