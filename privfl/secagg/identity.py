"""Identities of clients, against a server that may lie: long-lived Ed25519 keys, and a directory of the public ones.

The protocol does not say how clients get the directory; it must not come from the server. A signature is over a label and the
statement, so that a signature for one purpose is not valid for another.

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
    """One client's signing key. The private key never leaves this object and has no ``repr``.

    Args:
        private: the private key, 32 bytes.
    """

    def __init__(self, private: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public: Final = self._key.public_key().public_bytes_raw()

    def sign(self, label: bytes, statement: bytes) -> bytes:
        """Sign a statement; the signature, 64 bytes, can be made only with this identity's private key."""
        return self._key.sign(label + statement)


class Directory:
    """Directory of all clients' public keys, by the client's number. It must not come from the server.

    Args:
        keys: client number -> public key, 32 bytes.

    Raises:
        ConfigError: a key is no valid public key, or two numbers have the same key, so that its owner could sign for both.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        owners: dict[bytes, int] = {}
        for client, key in keys.items():
            # The highest bit is the sign of x, the rest is y. A y of the prime or more would be a second encoding of a key.
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
            ProtocolError: the client is not in the directory, or the signature does not verify under its key.
        """
        if client not in self._keys:
            raise ProtocolError(f"client {client} is not in the directory of identities; only its clients take part")
        try:
            self._keys[client].verify(signature, label + statement)
        except InvalidSignature:
            raise ProtocolError(
                f"client {client} did not sign this ({label.decode()}); it was forged or altered; discard the round"
            ) from None
