"""Tags of shares: commitments by which a share that is revealed later is known to be the one that was dealt.

A client shares two secrets. A holder that reveals a wrong share would make the reconstructed secret wrong, and the owner would
look like the liar. The owner therefore publishes a tag of each share. A holder that was dealt shares that do not fit their tags
leaves them out and has nothing to reveal. A server that is shown a share that does not fit its tag knows that the holder lies.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from typing import Final

import numpy as np

from privfl.errors import ProtocolError
from privfl.secagg.field import PRIME
from privfl.secagg.shamir import SHARE_BYTES

TAG_BYTES: Final = 16
_LABEL: Final = b"privfl secagg share"
_BOUND: Final = struct.Struct("<IIB")


class ShareKind(IntEnum):
    """The secret to which a share belongs: the seed or the mask key."""

    SEED = 0
    MASK_KEY = 1


def tag(session: bytes, owner: int, holder: int, kind: int, share: bytes) -> bytes:
    """The tag of one share: 16 bytes by which its owner commits itself to it.

    Guarantees: say nothing of the share, which is as hard to guess as the secret (SHA-256 as a random oracle); another share
    with the same tag is as hard to find as a second preimage.

    Args:
        session: the session id.
        owner: whose secret it is a share of.
        holder: who was dealt it; the owner holds one share itself.
        kind: of which of the owner's secrets.
        share: 36 bytes.
    """
    return hashlib.sha256(_LABEL + session + _BOUND.pack(owner, holder, kind) + share).digest()[:TAG_BYTES]


def tags(session: bytes, owner: int, holder: int, shares: bytes) -> bytes:
    """The tags of the two shares that one holder is dealt: of the seed, then of the mask key, 36 bytes each."""
    seed, mask_key = shares[:SHARE_BYTES], shares[SHARE_BYTES:]
    return tag(session, owner, holder, 0, seed) + tag(session, owner, holder, 1, mask_key)


def share_of(shares: bytes, kind: ShareKind) -> bytes:
    """The share of one of the two secrets."""
    return shares[kind * SHARE_BYTES : (kind + 1) * SHARE_BYTES]


def check_dealt(session: bytes, owner: int, holder: int, shares: bytes, published: bytes) -> None:
    """Refuse shares that a holder could not reveal later.

    Raises:
        ProtocolError: a number is no element of the field, or a tag differs from the published one.
    """
    if np.frombuffer(shares, "<u2").max() >= PRIME:
        raise ProtocolError(f"shares with a number that is not below {PRIME}; they are left out")
    if tags(session, owner, holder, shares) != published:
        raise ProtocolError("shares that are not those of its tags; they are left out")
