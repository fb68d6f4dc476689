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

from privfl.errors import ConfigError, ProtocolError
from privfl.secagg.agreement import FIELD

SIGNATURE_BYTES: Final = 64
_KEY_BYTES: Final = 32
ADVERT: Final = b"privfl secagg advert"
SURVIVORS: Final = b"privfl secagg survivors"


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


class Directory:
    """Everyone's public identity, by the client's number. It must not come from the server.

    Args:
        keys: 32 bytes each.

    Raises:
        ConfigError: a key that is none, or one identity under two numbers: whoever has it could sign for two.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        owners: dict[bytes, int] = {}
        for client, key in keys.items():
            # The highest bit is the sign of x; the rest is y, of which an alias above the prime would be a second name.
            if len(key) != _KEY_BYTES or int.from_bytes(key, "little") % 2**255 >= FIELD:
                raise ConfigError(
                    f"the identity of client {client}: must be an Ed25519 public key, 32 bytes, with y below 2^255 - 19"
                )
            if key in owners:
                raise ConfigError(
                    f"clients {owners[key]} and {client} have one identity: must have one each; mend the directory"
                )
            owners[key] = client
        self._keys: Final = {client: Ed25519PublicKey.from_public_bytes(key) for client, key in keys.items()}

    def __contains__(self, client: int) -> bool:
        return client in self._keys

    def verify(self, client: int, label: bytes, statement: bytes, signature: bytes) -> None:
        """Refuse a statement that the client did not sign.

        Raises:
            ProtocolError: the client is not in the directory, or the signature is not its own.
        """
        if client not in self._keys:
            raise ProtocolError(f"client {client} is not in the directory of identities; only its clients take part")
        try:
            self._keys[client].verify(signature, label + statement)
        except InvalidSignature:
            raise ProtocolError(
                f"client {client} did not sign this ({label.decode()}); somebody in between altered it, discard the round"
            ) from None
