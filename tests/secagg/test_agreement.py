from __future__ import annotations

import hashlib
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from secagg_cohort import refused

from privfl.errors import ProtocolError
from privfl.secagg import agreement
from privfl.secagg.agreement import MASK, KeyPair, check_public_key, commitment, hkdf, seal, self_mask_key, unseal

SESSION = b"s" * 32

# RFC 7748, section 6.1
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SECRET = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

# The canonical encodings of the points of order 1, 2, 4 and 8 of Curve25519 and its twist.
LOW_ORDER = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)


def pair(private: bytes) -> KeyPair:
    return KeyPair(private)


def test_x25519_gives_the_answer_of_rfc_7748(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets: list[bytes] = []

    def record(secret: bytes, **_: bytes) -> bytes:
        secrets.append(secret)
        return hkdf(secret, salt=b"", info=b"")

    monkeypatch.setattr(agreement, "hkdf", record)
    pair(ALICE).shared_key(BOB_PUBLIC, SESSION, MASK)
    pair(BOB).shared_key(ALICE_PUBLIC, SESSION, MASK)
    assert secrets == [SECRET, SECRET]
    assert (pair(ALICE).public, pair(BOB).public) == (ALICE_PUBLIC, BOB_PUBLIC)


def test_hkdf_gives_the_answer_of_rfc_5869() -> None:
    found = hkdf(b"\x0b" * 22, salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)))
    assert found.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_the_derivation_is_as_documented() -> None:
    info = b"privfl secagg mask" + min(ALICE_PUBLIC, BOB_PUBLIC) + max(ALICE_PUBLIC, BOB_PUBLIC)
    assert pair(ALICE).shared_key(BOB_PUBLIC, SESSION, MASK) == hkdf(SECRET, salt=SESSION, info=info)


def test_both_ends_derive_one_key_and_everything_in_it_matters() -> None:
    one, other, third = (pair(bytes([number]) * 32) for number in (1, 2, 3))
    key = one.shared_key(other.public, SESSION, MASK)
    assert key == other.shared_key(one.public, SESSION, MASK)
    keys = [
        key,
        one.shared_key(other.public, b"t" * 32, MASK),
        one.shared_key(other.public, SESSION, b"another purpose"),
        one.shared_key(third.public, SESSION, MASK),
        other.shared_key(third.public, SESSION, MASK),
    ]
    assert all(a != b for a, b in combinations(keys, 2))


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused(point: str) -> None:
    with pytest.raises(ProtocolError, match="low order"):
        pair(ALICE).shared_key(bytes.fromhex(point), SESSION, MASK)


@pytest.mark.parametrize("change", [2**255, 2**255 - 19])
def test_an_alias_of_a_key_is_refused(change: int) -> None:
    alias = (change + 9).to_bytes(32, "little")
    with pytest.raises(ProtocolError, match="below"):
        check_public_key(alias)
    check_public_key((9).to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match="32 bytes"):
        pair(ALICE).shared_key(b"k" * length, SESSION, MASK)


def test_no_private_key_is_shown_by_its_name() -> None:
    assert str(ALICE) not in repr(pair(ALICE))


def test_a_seed_s_mask_and_commitment_are_unrelated() -> None:
    seed = b"e" * 32
    keys = [
        self_mask_key(seed, SESSION),
        commitment(seed, SESSION),
        self_mask_key(seed, b"t" * 32),
        commitment(b"f" * 32, SESSION),
    ]
    assert len(set(keys)) == 4
    assert keys[0] == hkdf(seed, salt=SESSION, info=b"privfl secagg self")
    assert keys[1] == hkdf(seed, salt=SESSION, info=b"privfl secagg commitment")


# --- boxes ----------------------------------------------------------------------------------------------------------


def test_a_box_is_chacha20_poly1305_as_documented() -> None:
    # RFC 8439 by way of the library: nonce = sender, associated data = sender, receiver, context.
    bound = b"\x07\0\0\0" + b"\x09\0\0\0" + b"context"
    expected = ChaCha20Poly1305(b"k" * 32).encrypt(b"\x07" + bytes(11), b"shares", bound)
    assert seal(b"k" * 32, b"shares", 7, 9, b"context") == expected
    assert unseal(b"k" * 32, expected, 7, 9, b"context") == b"shares"


def test_a_box_gives_the_answer_of_rfc_8439(monkeypatch: pytest.MonkeyPatch) -> None:
    # Section 2.8.2. A sender's number of 32 bits does not make that nonce, so that both it and the context are put in.
    monkeypatch.setattr(agreement, "_nonce", lambda _: bytes.fromhex("070000004041424344454647"))
    monkeypatch.setattr(agreement, "_bound", lambda *_: bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
    sealed = bytes.fromhex(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
        "1ae10b594f09e26a7e902ecbd0600691"
    )
    assert seal(bytes(range(0x80, 0xA0)), text, 0, 1, b"") == sealed
    assert unseal(bytes(range(0x80, 0xA0)), sealed, 0, 1, b"") == text


def test_digests_give_the_answer_of_fips_180_4() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashlib.sha256(b"abc").hexdigest() == expected


def check_a_box_is_bound_to_all_of_its_context() -> None:
    box = seal(b"k" * 32, b"shares", 7, 9, b"context")
    altered: list[tuple[bytes, bytes, int, int, bytes]] = [
        (b"l" * 32, box, 7, 9, b"context"),
        (b"k" * 32, box[:-1] + bytes([box[-1] ^ 1]), 7, 9, b"context"),
        (b"k" * 32, box[:-1], 7, 9, b"context"),
        (b"k" * 32, b"", 7, 9, b"context"),
        (b"k" * 32, box, 9, 7, b"context"),
        (b"k" * 32, box, 7, 8, b"context"),
        (b"k" * 32, box, 8, 9, b"context"),
        (b"k" * 32, box, 7, 9, b"another"),
    ]
    for one in altered:
        refused(unseal, *one, match="not sealed by it")


def test_a_box_is_bound_to_all_of_its_context() -> None:
    check_a_box_is_bound_to_all_of_its_context()


def test_the_two_directions_of_a_channel_share_no_nonce() -> None:
    one, other = (seal(b"k" * 32, bytes(72), sender, 9 - sender, b"") for sender in (4, 5))
    # Under one nonce the two ciphertexts of one plaintext would be the same.
    assert one[:72] != other[:72]
