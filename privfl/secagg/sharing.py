"""The shares of a client's two secrets, and the tags by which a share that is shown later is known to be what was dealt.

A holder that reveals a wrong share would make the secret that is put together from it a wrong one, and its owner look like
the liar. The owner therefore publishes a tag of each share. A holder that was dealt a share that does not fit its tag has
nothing to reveal, and a server that is shown a share that does not fit knows that the holder lies.
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
    """Which of a client's two secrets a share is of."""

    SEED = 0
    MASK_KEY = 1


def tag(session: bytes, owner: int, holder: int, kind: int, share: bytes) -> bytes:
    """16 bytes that commit an owner to one share.

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
    """The tags of what one holder is dealt: a share of the seed and one of the mask key, 36 bytes each."""
    seed, mask_key = shares[:SHARE_BYTES], shares[SHARE_BYTES:]
    return tag(session, owner, holder, 0, seed) + tag(session, owner, holder, 1, mask_key)


def share_of(shares: bytes, kind: ShareKind) -> bytes:
    """One of the two shares."""
    return shares[kind * SHARE_BYTES : (kind + 1) * SHARE_BYTES]


def check_dealt(session: bytes, owner: int, holder: int, shares: bytes, published: bytes) -> None:
    """Refuse shares that a holder could not reveal later.

    Raises:
        ProtocolError: a number that is no element of the field, or a tag that is not the published one.
    """
    if np.frombuffer(shares, "<u2").max() >= PRIME:
        raise ProtocolError(f"shares with a number that is not below {PRIME}; they are left out")
    if tags(session, owner, holder, shares) != published:
        raise ProtocolError("shares that are not those of its tags; they are left out")
