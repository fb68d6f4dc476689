"""Who is who, against a server that may lie: long-lived Ed25519 identities, and a directory of their public halves.

How a directory comes to the clients is not the protocol's business: it must not come from the server. What is signed is
the label of the statement and the statement itself, so that no signature passes for another.

Source: RFC 8032 (Ed25519).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privfl.errors import ProtocolError

SIGNATURE_BYTES: Final = 64
ADVERT: Final = b"privfl secagg advert"
SURVIVORS: Final = b"privfl secagg survivors"

Directory = Mapping[int, bytes]
"""Each client's public identity, 32 bytes."""


class Identity:
    """One client's identity. The private half never leaves this object and has no ``repr``.

    Args:
        private: 32 bytes.
    """

    def __init__(self, private: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public: Final = self._key.public_key().public_bytes_raw()

    def sign(self, label: bytes, statement: bytes) -> bytes:
        """64 bytes that only this identity can make."""
        return self._key.sign(label + statement)


def verify(directory: Directory, client: int, label: bytes, statement: bytes, signature: bytes) -> None:
    """Refuse a statement that the client did not sign.

    Raises:
        ProtocolError: the client is not in the directory, or the signature is not its own.
    """
    if client not in directory:
        raise ProtocolError("is not in the directory of identities; only its clients take part", peer=f"client {client}")
    try:
        Ed25519PublicKey.from_public_bytes(directory[client]).verify(signature, label + statement)
    except InvalidSignature:
        raise ProtocolError(
            f"did not sign this ({label.decode()}); somebody in between altered it, discard the round", peer=f"client {client}"
        ) from None
