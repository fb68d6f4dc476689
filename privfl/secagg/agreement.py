"""Two clients agree on a secret through a server that must not learn it: X25519 and HKDF-SHA256.

Every client makes a fresh key pair in every round. Keys come from the cryptographic generator of the operating system
(through OpenSSL) and from nothing else: no seed reproduces them, and a run's result does not depend on them.

Sources: RFC 7748 (X25519), RFC 5869 (HKDF).
"""

from __future__ import annotations

from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privfl.errors import ProtocolError

KEY_BYTES: Final = 32
MASK: Final = b"privfl secagg mask"

_FIELD: Final = 2**255 - 19


class KeyPair:
    """One client's key pair for one round. The private half never leaves this object and has no ``repr``."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.public: Final = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """A fresh pair."""
        return cls(X25519PrivateKey.generate())

    def shared_key(self, peer: bytes, session: bytes, label: bytes) -> bytes:
        """The 32-byte key that this client and the owner of ``peer`` share, for one use in one session.

        HKDF(salt=session, secret=X25519, info=label ‖ smaller public key ‖ larger public key): another session, another
        purpose or another pair of public keys gives an unrelated key.

        Guarantees: equal at both ends; unknown to everybody else who sees only public keys (computational
        Diffie-Hellman on Curve25519, HKDF as a random oracle). No claim on whose key ``peer`` is.

        Raises:
            ProtocolError: ``peer`` is not the canonical encoding of a point, or a point of low order, for which the
                secret would be zero whatever the private key.
        """
        check_public_key(peer)
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise ProtocolError(f"public key {peer.hex()}: is a point of low order; only an attacker sends one") from None
        return hkdf(secret, salt=session, info=label + b"".join(sorted((self.public, peer))))


def check_public_key(key: bytes) -> None:
    """Refuse what no honest client sends.

    Raises:
        ProtocolError: not 32 bytes, or not below 2^255 - 19. X25519 would accept such an alias of another point, and
            one client's key could then pass for two.
    """
    if len(key) != KEY_BYTES or int.from_bytes(key, "little") >= _FIELD:
        raise ProtocolError(f"public key {key.hex()}: must be 32 bytes, below 2^255 - 19 as a little-endian number")


def hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)
