"""Shamir's secret sharing: any t shares determine the secret, fewer reveal nothing (Shamir 1979, "How to Share a Secret").

Each limb of the secret is the value at 0 of a random polynomial of degree at most t − 1. Holder number x, from 1, gets its
value at x.

Guarantees: t − 1 shares are independent of the secret, exactly so if coefficients are uniform; those here come from AES-256-CTR
under a fresh key. Shares are not authenticated: the caller must check the secret that it reconstructs.
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
"""Shares, one in each row, of LIMBS numbers."""


def split(secrets: list[bytes], holders: int, threshold: int, key: bytes) -> NDArray[np.uint16]:
    """Split several secrets into shares for holders 1 to ``holders``.

    Args:
        secrets: S secrets of 32 bytes.
        holders: number of holders, at least ``threshold`` and below the field's size.
        threshold: t, at least 1.
        key: 32 fresh bytes, from which the coefficients are made.

    Returns:
        shape (holders, S · LIMBS); row x − 1 holds the shares of holder x.

    Raises:
        ProtocolError: ``holders`` or ``threshold`` is out of range.
    """
    if not 1 <= threshold <= holders < field.PRIME:
        raise ProtocolError(f"{threshold} of {holders} shares: must be 1 ≤ threshold ≤ holders < {field.PRIME}")
    constant = np.concatenate([field.limbs(secret) for secret in secrets])
    random = field.uniform((threshold - 1) * len(constant), key).reshape(threshold - 1, len(constant))
    return field.dot(_powers(holders, threshold), np.vstack([constant, random])).astype(np.uint16)


def combine(points: tuple[int, ...], shares: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Reconstruct the limbs of secrets from exactly t shares of each.

    Args:
        points: the numbers of the t holders, distinct, from 1.
        shares: their shares, shape (t, columns), with any number of secrets side by side.

    Returns:
        shape (columns,); :func:`privfl.secagg.field.secret` turns LIMBS of them into the bytes of a secret.
    """
    limbs: NDArray[np.int64] = field.dot(_coefficients(points)[None, :], shares.astype(np.int64))[0]
    return limbs


@functools.lru_cache(maxsize=256)
def _coefficients(points: tuple[int, ...]) -> field.Elements:
    return field.lagrange_at_zero(np.array(points, np.int64))


@functools.lru_cache(maxsize=8)
def _powers(holders: int, threshold: int) -> field.Elements:
    """The matrix of x^j for x from 1 to ``holders`` and j below ``threshold``."""
    points = np.arange(1, holders + 1, dtype=np.int64)
    powers = np.ones((holders, threshold), np.int64)
    for place in range(1, threshold):
        powers[:, place] = powers[:, place - 1] * points % field.PRIME
    return powers
