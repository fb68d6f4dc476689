from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_cohort import patched, refused

from privfl.errors import ProtocolError
from privfl.secagg.messages import SERVER, Advert, MaskedInput, Roster

HEADER = 20
ADVERT = Advert(7, 3, b"k" * 32)
ROSTER = Roster(7, ((1, b"a" * 32), (2, b"b" * 32), (5, b"c" * 32)))
MASKED = MaskedInput(7, 3, b"s" * 32, np.arange(5, dtype=np.uint32))
EVERY: list[Any] = [ADVERT, ROSTER, MASKED]

uint32 = st.integers(0, 2**32 - 1)


def test_the_bytes_are_as_documented() -> None:
    assert ADVERT.to_bytes() == b"pf\x01\x01" + b"\x07\0\0\0" + b"\x03\0\0\0" + b"\x20" + bytes(7) + b"k" * 32
    assert ROSTER.to_bytes()[HEADER : HEADER + 40] == b"\x03\0\0\0" + b"\x01\0\0\0" + b"a" * 32
    assert ROSTER.to_bytes()[8:12] == b"\xff" * 4
    assert MASKED.to_bytes()[HEADER:] == b"s" * 32 + b"".join(bytes([i, 0, 0, 0]) for i in range(5))


@settings(deadline=None, derandomize=True)
@given(uint32, st.integers(0, SERVER - 1), st.binary(min_size=32, max_size=32), st.lists(uint32, max_size=20))
def test_what_was_written_is_read(number: int, sender: int, key: bytes, words: list[int]) -> None:
    assert Advert.from_bytes(Advert(number, sender, key).to_bytes()) == Advert(number, sender, key)
    roster = Roster(number, tuple((client, key) for client in sorted(set(words) - {SERVER})))
    assert Roster.from_bytes(roster.to_bytes()) == roster
    masked = MaskedInput.from_bytes(MaskedInput(number, sender, key, np.array(words, np.uint32)).to_bytes())
    assert (masked.round, masked.sender, masked.session, masked.words.tolist()) == (number, sender, key, words)


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_anything_short_or_extra_is_refused(message: Any) -> None:
    whole = message.to_bytes()
    for length in range(len(whole)):
        refused(type(message).from_bytes, whole[:length])
    for extra in (b"\0", bytes(4), bytes(36)):
        refused(type(message).from_bytes, whole + extra)
    refused(type(message).from_bytes, whole + whole)


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize(
    ("at", "value"), [(0, b"x"), (1, b"x"), (2, b"\0"), (2, b"\x02"), (3, b"\0"), (3, b"\x04"), (12, b"\xff")]
)
def test_a_foreign_header_is_refused(message: Any, at: int, value: bytes) -> None:
    refused(type(message).from_bytes, patched(message.to_bytes(), at, value))


def test_one_type_does_not_pass_for_another() -> None:
    for message in EVERY:
        for other in EVERY:
            if message is not other:
                refused(type(other).from_bytes, message.to_bytes(), match="came instead")


def test_only_the_server_sends_rosters_and_only_clients_the_rest() -> None:
    refused(Roster.from_bytes, patched(ROSTER.to_bytes(), 8, b"\x03\0\0\0"))
    refused(Advert.from_bytes, patched(ADVERT.to_bytes(), 8, b"\xff" * 4))
    refused(MaskedInput.from_bytes, patched(MASKED.to_bytes(), 8, b"\xff" * 4))


@pytest.mark.parametrize("clients", [(1, 1), (2, 1), (1, 5, 5), (1, SERVER)])
def test_a_roster_is_strictly_ascending(clients: tuple[int, ...]) -> None:
    roster = Roster(7, tuple((client, bytes([client % 256]) * 32) for client in clients))
    refused(Roster.from_bytes, roster.to_bytes(), match="out of order")


@pytest.mark.parametrize("count", [0, 2, 4, 2**32 - 1])
def test_a_roster_counts_right(count: int) -> None:
    refused(Roster.from_bytes, patched(ROSTER.to_bytes(), HEADER, count.to_bytes(4, "little")))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=120), st.sampled_from([Advert, Roster, MaskedInput]))
def test_garbage_is_refused_in_one_line(garbage: bytes, kind: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        kind.from_bytes(garbage)
    assert "\n" not in str(caught.value)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.data())
def test_what_parses_is_the_one_encoding(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(EVERY))
    whole = bytearray(message.to_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = type(message).from_bytes(bytes(whole))
    except ProtocolError:
        return
    assert parsed.to_bytes() == bytes(whole)
