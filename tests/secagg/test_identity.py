from __future__ import annotations

import pytest
from secagg_cohort import refused

from privfl.errors import ConfigError
from privfl.secagg.identity import ADVERT, SURVIVORS, Directory, Identity

# RFC 8032, section 7.1, test 2
PRIVATE = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC_COHORT = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_ed25519_gives_the_answer_of_rfc_8032() -> None:
    one = Identity(PRIVATE)
    assert one.public == PUBLIC_COHORT
    assert one.sign(b"", b"\x72") == SIGNATURE
    Directory({7: PUBLIC_COHORT}).verify(7, b"", b"\x72", SIGNATURE)


def test_the_label_is_signed_too() -> None:
    signature = Identity(PRIVATE).sign(ADVERT, b"statement")
    Directory({7: PUBLIC_COHORT}).verify(7, ADVERT, b"statement", signature)
    refused(Directory({7: PUBLIC_COHORT}).verify, 7, SURVIVORS, b"statement", signature, match="client 7 did not sign")


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_an_altered_signature_is_refused(at: int) -> None:
    signature = bytearray(Identity(PRIVATE).sign(ADVERT, b"statement"))
    signature[at] ^= 1
    refused(Directory({7: PUBLIC_COHORT}).verify, 7, ADVERT, b"statement", bytes(signature), match="did not sign")


def test_another_s_statement_or_signature_is_refused() -> None:
    signature, other = Identity(PRIVATE).sign(ADVERT, b"statement"), Identity(b"o" * 32)
    directory = Directory({7: PUBLIC_COHORT, 8: other.public})
    refused(directory.verify, 7, ADVERT, b"another", signature, match="did not sign")
    refused(directory.verify, 8, ADVERT, b"statement", signature, match="client 8 did not sign")
    refused(directory.verify, 9, ADVERT, b"statement", signature, match="client 9 is not in the directory")
    refused(directory.verify, 7, ADVERT, b"statement", b"", match="did not sign")


def check_nobody_has_two_numbers() -> None:
    """Whoever has one identity under two numbers signs twice, and is counted twice in a quorum."""
    with pytest.raises(ConfigError, match="clients 7 and 9 have one identity"):
        Directory({7: PUBLIC_COHORT, 8: Identity(b"o" * 32).public, 9: PUBLIC_COHORT})


def test_nobody_has_two_numbers() -> None:
    check_nobody_has_two_numbers()


@pytest.mark.parametrize(
    "key", [b"", PUBLIC_COHORT[:31], b"\xff" * 32, (2**255 - 19).to_bytes(32, "little")], ids=["none", "short", "y", "p"]
)
def test_a_directory_takes_canonical_keys_only(key: bytes) -> None:
    with pytest.raises(ConfigError, match="the identity of client 3"):
        Directory({3: key})


def test_no_private_key_is_shown() -> None:
    one = Identity(PRIVATE)
    assert PRIVATE.hex() not in repr(one) + str(vars(one))
    assert str(PRIVATE) not in str(vars(one))
