"""Key agreement: two clients agree on a secret through a server that must not learn it, by X25519 and HKDF-SHA256.

Every client makes two fresh key pairs in each attempt at a round: one for the channel on which it sends shares to its
neighbours, one for the masks. The two must differ: the mask key is revealed if its owner is lost, and it must not open the
channel. Keys are made from the entropy that a client is given, by default the operating system's.

Sources: RFC 7748 (X25519), RFC 5869 (HKDF), RFC 8439 (ChaCha20-Poly1305).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privfl.errors import ProtocolError

Entropy = Callable[[int], bytes]
"""Source of randomness: returns as many fresh random bytes as it is asked for, such as ``os.urandom``."""

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
MASK: Final = b"privfl secagg mask"
CHANNEL: Final = b"privfl secagg channel"
SELF: Final = b"privfl secagg self"
COMMITMENT: Final = b"privfl secagg commitment"

FIELD: Final = 2**255 - 19
"""The prime of Curve25519."""

_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
        FIELD - 1,
    }
)
"""The u-coordinates of the points of order 1, 2, 4 and 8 of the curve and its twist (Bernstein, cr.yp.to/ecdh.html)."""


class KeyPair:
    """One client's key pair for one purpose in one attempt at a round. Its ``repr`` does not show the private key.

    Args:
        private: the private key, 32 bytes.
    """

    def __init__(self, private: bytes) -> None:
        self.private: Final = private
        self._key = X25519PrivateKey.from_private_bytes(private)
        self.public: Final = self._key.public_key().public_bytes_raw()

    def shared_key(self, peer: bytes, session: bytes, label: bytes) -> bytes:
        """The 32-byte key that this client shares with the owner of the public key ``peer``, for one purpose in one session.

        It is HKDF(salt=session, secret=X25519, info=label ‖ smaller public key ‖ larger public key). Another session, another
        purpose or another pair of public keys gives an unrelated key.

        Guarantees: both ends compute the same key. It is unknown to everybody else who sees only public keys (computational
        Diffie-Hellman on Curve25519, HKDF as a random oracle). Nothing is claimed on who owns ``peer``.

        Raises:
            ProtocolError: ``peer`` is refused (:func:`check_public_key`).
        """
        check_public_key(peer)
        secret = self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        return hkdf(secret, salt=session, info=label + b"".join(sorted((self.public, peer))))


def check_public_key(key: bytes) -> None:
    """Refuse a public key that no honest client sends.

    Raises:
        ProtocolError: the key is not 32 bytes or not below 2^255 - 19; X25519 would accept such an alias of another point, and
            one client's key could then pass for two. Or it is a point of low order, for which the shared secret is zero
            whatever the private key is; the server refuses the one client, since otherwise all others would refuse the roster.
    """
    if len(key) != KEY_BYTES or int.from_bytes(key, "little") >= FIELD:
        raise ProtocolError(f"public key {key.hex()}: must be 32 bytes, below 2^255 - 19 as a little-endian number")
    if int.from_bytes(key, "little") in _LOW_ORDER:
        raise ProtocolError(f"public key {key.hex()}: is a point of low order; only an attacker sends one")


def self_mask_key(seed: bytes, session: bytes) -> bytes:
    """The key of a client's self mask, which it makes from its seed alone and shares with no other client."""
    return hkdf(seed, salt=session, info=SELF)


def commitment(seed: bytes, session: bytes) -> bytes:
    """The commitment to a client's seed, which the client publishes; a seed reconstructed from shares is checked against it.

    Guarantees: it reveals nothing of the seed or of the mask made from it (HKDF as a random oracle), and it is binding.
    """
    return hkdf(seed, salt=session, info=COMMITMENT)


def seal(key: bytes, plaintext: bytes, sender: int, receiver: int, context: bytes) -> bytes:
    """Encrypt a message from one end of a channel to the other; allowed once for each direction and key.

    The nonce is the sender's number. The two directions of a channel therefore share a key and never a nonce.

    Args:
        key: the channel key.
        plaintext: the shares.
        sender: client number.
        receiver: client number.
        context: further associated data, beside the two numbers.
    """
    return ChaCha20Poly1305(key).encrypt(_nonce(sender), plaintext, _bound(sender, receiver, context))


def unseal(key: bytes, box: bytes, sender: int, receiver: int, context: bytes) -> bytes:
    """Decrypt a box that :func:`seal` made, and return its plaintext.

    Raises:
        ProtocolError: the box was not sealed by ``sender`` for ``receiver`` in this context.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_nonce(sender), box, _bound(sender, receiver, context))
    except InvalidTag:
        raise ProtocolError("its box of shares was not sealed by it for this client and session; it is left out") from None


def hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)


def _nonce(sender: int) -> bytes:
    return sender.to_bytes(12, "little")


def _bound(sender: int, receiver: int, context: bytes) -> bytes:
    return sender.to_bytes(4, "little") + receiver.to_bytes(4, "little") + context
