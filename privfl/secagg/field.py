"""The prime field in which secrets are shared: arithmetic modulo 32,771, the smallest prime above 2^15.

A 32-byte secret is 18 limbs of 15 bits, and a share of it is 18 numbers of 16 bits. Sums of products of two elements are exact
in float64, so that sharing and reconstruction are products of small matrices.

Guarantees: results are exact. Running times depend on the values; nothing here is constant-time.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError
from privfl.secagg.prg import Keystream

Elements = NDArray[np.int64]
"""Elements of the field, in [0, PRIME)."""

PRIME: Final = 32_771
LIMBS: Final = 18
SECRET_BYTES: Final = 32

_LIMB_BITS: Final = 15
_BITS: Final = 8 * SECRET_BYTES
_GENERATOR: Final = 2
"""2 generates the multiplicative group: 2^(32,770 / q) is not 1 for any prime q of 32,770 = 2 · 5 · 29 · 113."""


def limbs(secret: bytes) -> Elements:
    """Split a 32-byte secret into 18 elements below 2^15, the lowest bits first."""
    bits = np.zeros(LIMBS * _LIMB_BITS, np.int64)
    bits[:_BITS] = np.unpackbits(np.frombuffer(secret, np.uint8), bitorder="little")
    return bits.reshape(LIMBS, _LIMB_BITS) @ (1 << np.arange(_LIMB_BITS))


def secret(elements: Elements) -> bytes:
    """Join 18 elements into a secret of 32 bytes; the inverse of :func:`limbs`.

    Raises:
        ProtocolError: no secret has these limbs, so that the shares from which they were computed do not belong together.
    """
    bits = (elements[:, None] >> np.arange(_LIMB_BITS + 1)) & 1
    if bits[:, _LIMB_BITS].any() or bits[:, :_LIMB_BITS].ravel()[_BITS:].any():
        raise ProtocolError("the shares add up to no secret: some were not made from it; discard the round")
    return np.packbits(bits[:, :_LIMB_BITS].astype(np.uint8).ravel()[:_BITS], bitorder="little").tobytes()


def uniform(count: int, key: bytes) -> Elements:
    """``count`` elements, as uniform as the keystream of AES-256-CTR under ``key``.

    Words of the keystream that would make some elements more likely are rejected, so that reduction adds no bias.
    """
    stream, found = Keystream(key), np.empty(0, np.int64)
    limit = 2**32 // PRIME * PRIME
    while len(found) < count:
        words = np.empty(min(count + 64, 32_768), np.uint32)
        stream.fill(words)
        found = np.concatenate([found, words[words < limit].astype(np.int64) % PRIME])
    return found[:count]


def dot(left: Elements, right: Elements) -> Elements:
    """The matrix product. It is exact, since the inner dimension is below 2^22 and products are below 2^31."""
    return np.rint(left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64) % PRIME


def lagrange_at_zero(points: Elements) -> Elements:
    """Lagrange coefficients λ at 0: f(0) = Σ λ_i f(x_i) for every polynomial f of a degree below the number of points.

    Args:
        points: the x_i, distinct elements other than 0.
    """
    exponent, power = _tables()
    # λ_i = Π_{j≠i} x_j / (x_j − x_i)
    differences = (points[None, :] - points[:, None]) % PRIME
    np.fill_diagonal(differences, 1)
    logarithms = exponent[points].sum() - exponent[points] - exponent[differences].sum(axis=1)
    coefficients: Elements = power[logarithms % (PRIME - 1)]
    return coefficients


@functools.cache
def _tables() -> tuple[Elements, Elements]:
    """Tables of the discrete logarithm to the base 2 (the entry of 0 is unused), and of the powers of 2."""
    power = np.empty(PRIME - 1, np.int64)
    value = 1
    for place in range(PRIME - 1):
        power[place] = value
        value = value * _GENERATOR % PRIME
    exponent = np.zeros(PRIME, np.int64)
    exponent[power] = np.arange(PRIME - 1)
    return exponent, power
