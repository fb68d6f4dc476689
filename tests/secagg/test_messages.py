"""Every message has one encoding, and nothing else is read; nor does anything but ProtocolError come out of garbage."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_cohort import COMPLETE, POLICIES, Group, group, patched, refused, remember

from privfl.errors import ProtocolError
from privfl.secagg.framing import SERVER, VERSION, sender_of
from privfl.secagg.messages import (
    BOX,
    MEMBER,
    SHARE,
    SIGNATURE,
    SIGNED_MEMBER,
    Advert,
    Consent,
    Consents,
    Delivery,
    MaskedInput,
    Refusal,
    Reveal,
    Roster,
    Shares,
    Survivors,
    box_type,
)
from privfl.secagg.session import Stage

HEADER = 20
SESSION = b"s" * 32


def rows(kind: np.dtype[Any], *clients: int) -> Any:
    table = np.zeros(len(clients), kind)
    if kind.names is None:
        return np.array(clients, kind)
    table["client"] = clients
    return table


def drawn_rows(*clients: int) -> Any:
    table = rows(box_type(2), *clients)
    table["holders"] = [2, 4]
    return table


NUMBERS = np.dtype("<u4")
EVERY: dict[str, Any] = {
    "Advert": Advert(7, 3, b"c" * 32, b"m" * 32),
    "Advert, signed": Advert(7, 3, b"c" * 32, b"m" * 32, b"g" * 64),
    "Roster": Roster(7, 9, b"d" * 32, rows(MEMBER, 1, 2, 5)),
    "Roster, signed": Roster(7, 9, b"d" * 32, rows(SIGNED_MEMBER, 1, 2, 5)),
    "Shares": Shares(7, 3, SESSION, b"o" * 32, b"t" * 32, rows(BOX, 1, 2, 5)),
    "Delivery": Delivery(7, SESSION, rows(NUMBERS, 1, 2, 5), rows(box_type(0), 1, 5)),
    "Delivery, drawn": Delivery(7, SESSION, rows(NUMBERS, 1, 2, 5), drawn_rows(1, 5)),
    "MaskedInput": MaskedInput(7, 3, SESSION, memoryview(bytes(range(20)))),
    "Survivors": Survivors(7, SESSION, 5, rows(NUMBERS, 1, 2, 5)),
    "Consent": Consent(7, 3, SESSION, b"g" * 64),
    "Consents": Consents(7, SESSION, rows(SIGNATURE, 1, 2, 5)),
    "Reveal": Reveal(7, 3, SESSION, rows(SHARE, 1, 2, 5)),
    "Refusal": Refusal(7, 3, 1, 5, 2, "too few survived"),
}
FROM_SERVER = (Roster, Delivery, Survivors, Consents)
every = pytest.mark.parametrize("name", EVERY)


def test_the_bytes_are_as_documented() -> None:
    assert EVERY["Advert"].to_bytes() == b"pf\x02\x01\x07\0\0\0\x03\0\0\0\x40" + bytes(7) + b"c" * 32 + b"m" * 32
    roster = EVERY["Roster, signed"].to_bytes()
    assert roster[8:12] == b"\xff" * 4
    assert roster[HEADER : HEADER + 41] == b"\x09\0\0\0\x01" + b"d" * 32 + b"\x03\0\0\0"
    assert EVERY["Shares"].to_bytes()[HEADER:] == SESSION + b"o" * 32 + b"t" * 32 + b"\x03\0\0\0" + b"".join(
        bytes([one, 0, 0, 0]) + bytes(88 + 32) for one in (1, 2, 5)
    )
    assert EVERY["Reveal"].to_bytes()[HEADER + 32 : HEADER + 32 + 45] == b"\x03\0\0\0\x01\0\0\0" + bytes(37)


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("Advert", 1, 84),
        ("Advert, signed", 1, 148),
        ("Roster", 2, 20 + 37 + 4 + 3 * 68),
        ("Roster, signed", 2, 20 + 37 + 4 + 3 * 132),
        ("Shares", 3, 20 + 96 + 4 + 3 * 124),
        ("Delivery", 4, 20 + 32 + 4 + 3 * 4 + 4 + 4 + 2 * 124),
        ("Delivery, drawn", 4, 20 + 32 + 4 + 3 * 4 + 4 + 4 + 2 * 132),
        ("MaskedInput", 5, 20 + 32 + 20),
        ("Survivors", 6, 20 + 32 + 4 + 4 + 3 * 4),
        ("Consent", 7, 20 + 32 + 64),
        ("Consents", 8, 20 + 32 + 4 + 3 * 68),
        ("Reveal", 9, 20 + 32 + 4 + 3 * 41),
        ("Refusal", 10, 20 + 9 + 16),
    ],
)
def test_the_sizes_are_as_documented(name: str, kind: int, size: int) -> None:
    message = EVERY[name].to_bytes()
    assert (message[3], len(message)) == (kind, size)


@every
def test_what_was_written_is_read(name: str) -> None:
    whole = EVERY[name].to_bytes()
    assert type(EVERY[name]).from_bytes(whole).to_bytes() == whole


@every
def test_anything_short_or_extra_is_refused(name: str) -> None:
    whole, read = EVERY[name].to_bytes(), type(EVERY[name]).from_bytes
    for length in range(len(whole)):
        refused(read, whole[:length])
    for extra in (b"\0", bytes(4), bytes(36), whole):
        refused(read, whole + extra)
    if name in ("MaskedInput", "Refusal"):
        return
    for length in (1, 4):
        # Even where the header announces it.
        for other in (whole + bytes(length), whole[:-length]):
            size = len(other) - HEADER
            refused(read, patched(other, 12, size.to_bytes(8, "little")), match="no ")


@every
@pytest.mark.parametrize(
    ("at", "value"), [(0, b"x"), (1, b"x"), (2, b"\0"), (2, b"\x01"), (3, b"\0"), (3, b"\x0b"), (12, b"\xff"), (19, b"\x80")]
)
def test_a_foreign_header_is_refused(name: str, at: int, value: bytes) -> None:
    refused(type(EVERY[name]).from_bytes, patched(EVERY[name].to_bytes(), at, value))


@every
def test_one_type_does_not_pass_for_another(name: str) -> None:
    for other in EVERY.values():
        if type(other) is not type(EVERY[name]):
            refused(type(other).from_bytes, EVERY[name].to_bytes(), match="came instead")


@every
def test_only_the_server_speaks_as_the_server(name: str) -> None:
    other = b"\x03\0\0\0" if isinstance(EVERY[name], FROM_SERVER) else b"\xff" * 4
    refused(type(EVERY[name]).from_bytes, patched(EVERY[name].to_bytes(), 8, other), match="from sender")


@pytest.mark.parametrize("clients", [(1, 1), (2, 1), (1, 5, 5), (1, SERVER)])
@pytest.mark.parametrize("name", ["Roster", "Roster, signed", "Shares", "Consents", "Reveal", "Survivors", "sharers", "boxes"])
def test_every_table_is_strictly_ascending(name: str, clients: tuple[int, ...]) -> None:
    makers: dict[str, Callable[[], Any]] = {
        "Roster": lambda: Roster(7, 9, b"d" * 32, rows(MEMBER, *clients)),
        "Roster, signed": lambda: Roster(7, 9, b"d" * 32, rows(SIGNED_MEMBER, *clients)),
        "Shares": lambda: Shares(7, 3, SESSION, b"o" * 32, b"t" * 32, rows(BOX, *clients)),
        "Consents": lambda: Consents(7, SESSION, rows(SIGNATURE, *clients)),
        "Reveal": lambda: Reveal(7, 3, SESSION, rows(SHARE, *clients)),
        "Survivors": lambda: Survivors(7, SESSION, 3, rows(NUMBERS, *clients)),
        "sharers": lambda: Delivery(7, SESSION, rows(NUMBERS, *clients), rows(box_type(0), 1)),
        "boxes": lambda: Delivery(7, SESSION, rows(NUMBERS, 1), rows(box_type(0), *clients)),
    }
    made = makers[name]()
    refused(type(made).from_bytes, made.to_bytes(), match="twice or out of order")


@pytest.mark.parametrize("count", [0, 2, 4, 2**31, 2**32 - 1])
@pytest.mark.parametrize(("name", "at"), [("Roster", 57), ("Shares", 116), ("Delivery", 52), ("Survivors", 56), ("Reveal", 52)])
def test_a_count_that_lies_is_refused_before_anything_is_made_room_for(name: str, at: int, count: int) -> None:
    refused(type(EVERY[name]).from_bytes, patched(EVERY[name].to_bytes(), at, count.to_bytes(4, "little")))


def test_a_degree_that_lies_is_refused() -> None:
    for degree in (1, 3, 2**31, 2**32 - 1):
        message = patched(EVERY["Delivery, drawn"].to_bytes(), 68, degree.to_bytes(4, "little"))
        refused(Delivery.from_bytes, message)


def test_a_message_too_short_to_name_its_sender_is_its_peer_s() -> None:
    with pytest.raises(ProtocolError) as caught:
        group(COMPLETE).server.receive(2, bytes(19))
    assert caught.value.peer == "client 2"
    assert str(caught.value).startswith("advertise_keys, client 2: a message of 19 bytes")


@pytest.mark.parametrize(
    "reason", ["", "two\nlines", "\x1b[2J", b"\xff\xfe", "x" * 1001], ids=["none", "lines", "control", "no UTF-8", "long"]
)
def test_a_reason_is_a_line_of_text(reason: str | bytes) -> None:
    octets = reason.encode() if isinstance(reason, str) else reason
    message = EVERY["Refusal"].to_bytes()[: 20 + 9] + octets
    refused(Refusal.from_bytes, patched(message, 12, (9 + len(octets)).to_bytes(8, "little")), match="no REFUSAL")


def test_a_long_reason_is_cut_between_letters() -> None:
    made = Refusal(7, 3, 1, 5, 2, "ü" * 700)
    assert Refusal.from_bytes(made.to_bytes()).reason == "ü" * 500


def test_a_degree_that_no_row_can_have_is_refused_even_if_the_message_is_as_long() -> None:
    """A row of 2^31 bytes is more than NumPy makes. The message is of pages that are never touched."""
    with mmap.mmap(-1, 20 + 32 + 12 + 2**29) as message:
        message[:20] = struct.pack("<2sBBIIQ", b"pf", VERSION, 4, 7, SERVER, len(message) - 20)
        for degree in (2**24 + 1, 2**29):
            message[56:60] = struct.pack("<I", degree)
            refused(Delivery.from_bytes, message, match=f"{degree} holders of each client")


def test_a_delivery_without_boxes_may_have_any_degree() -> None:
    empty = Delivery(7, SESSION, rows(NUMBERS, 1, 2), rows(box_type(60)))
    assert Delivery.from_bytes(empty.to_bytes()).boxes.dtype == box_type(60)


def test_a_share_of_an_unknown_kind_is_refused() -> None:
    for kind in (2, 255):
        refused(Reveal.from_bytes, patched(EVERY["Reveal"].to_bytes(), 60, bytes([kind])), match="unknown kind")


# --- fuzzing ------------------------------------------------------------------------------------------------------------


@st.composite
def mutated(draw: st.DrawFn, whole: bytes, others: list[bytes]) -> bytes:
    """A valid message with bits flipped, cut, spliced with another, or with a number in it that lies."""
    message = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(message) - 1, 0)))
        match draw(st.sampled_from(["flip", "cut", "drop", "repeat", "splice", "number", "length", "header"])):
            case "flip" if message:
                message[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del message[at:]
            case "drop":
                del message[at : at + draw(st.integers(1, 40))]
            case "repeat":
                message[at:at] = message[at : at + draw(st.integers(1, 100))]
            case "splice":
                other = draw(st.sampled_from(others))
                message = message[:at] + other[min(at, len(other)) :]
            case "number":
                value = draw(st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 2, 2**32 - 1]))
                message[at : at + 4] = value.to_bytes(4, "little")
            case "length" if len(message) >= HEADER:
                message[12:20] = (len(message) - HEADER).to_bytes(8, "little")
            case _:
                message[:HEADER] = whole[:HEADER]
    if draw(st.booleans()) and len(message) >= HEADER:
        message[12:20] = (len(message) - HEADER).to_bytes(8, "little")
    return bytes(message)


def accepted(call: Callable[[], Any]) -> Any:
    """What a call gives; None where it was refused in one line, and any other exception is a failure."""
    try:
        return call()
    except ProtocolError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return None


@every
@settings(deadline=None, derandomize=True, max_examples=120)
@given(data=st.data())
def test_what_parses_is_the_one_encoding_of_what_it_says(name: str, data: st.DataObject) -> None:
    whole = [message.to_bytes() for message in EVERY.values()]
    message = data.draw(mutated(EVERY[name].to_bytes(), whole))
    parsed = accepted(lambda: type(EVERY[name]).from_bytes(message))
    if parsed is not None:
        assert parsed.to_bytes() == message


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(sorted(EVERY)))
def test_garbage_is_refused_in_one_line(garbage: bytes, name: str) -> None:
    refused(type(EVERY[name]).from_bytes, garbage)


STAGES = [(kind, stage) for kind, policy in POLICIES.items() for stage in Stage if stage in group(policy).parameters.stages]
at_every_stage = pytest.mark.parametrize(("kind", "stage"), STAGES, ids=lambda one: str(one))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


def everything_said(kind: str) -> list[bytes]:
    """Every message of a round."""
    made, said = group(POLICIES[kind], 5), []
    while made.server.stage is not None:
        said += [request for one in made.numbers if (request := made.server.request(one)) is not None]
        answers = made.answers()
        said += answers.values()
        made.close(answers)
    return said


@at_every_stage
@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data())
def test_a_server_takes_no_message_for_another(kind: str, stage: Stage, data: st.DataObject) -> None:
    """Mutants of a good answer and all other messages: refused without a trace, or the sum is right, or the lie is named."""
    made = group(POLICIES[kind], 5).to(stage)
    answers = made.answers()
    message = data.draw(mutated(answers[1], [*everything_said_once(kind), *answers.values()]))
    before = {name: repr(value) for name, value in vars(made.server).items()}
    try:
        made.receive(message, 1)
    except ProtocolError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert error.stage == stage  # noqa: PT017
        after = {name: repr(value) for name, value in vars(made.server).items()}
        assert after == before, "a refused message left a trace"
        made.close(answers)
        assert np.array_equal(made.end().words_D, made.plain(made.numbers))
        return
    sender = sender_of(message)
    assert sender in answers
    for number, answer in answers.items():
        if number != sender:
            # A client that came first with another's keys has them.
            accepted(lambda answer=answer: made.receive(answer))  # type: ignore[misc]
    found = accepted(lambda: finish(made))
    if found is None or message == answers[sender] or stage is Stage.MASKED_INPUT:
        # Nobody can tell one masked vector from another: what such a client spoils is the sum, not a secret.
        return
    assert np.array_equal(found.words_D, made.plain(found.survivors)), "a wrong sum"


def finish(made: Group) -> Any:
    """To the end, with those who still take part."""
    made.server.close()
    while made.server.stage is not None:
        for number in sorted(made.server.awaited):
            answer = accepted(lambda number=number: made.answer(number, made.server.request(number)))  # type: ignore[misc]
            if answer is not None:
                made.receive(answer)
        made.server.close()
    return made.server.result()


@at_every_stage
@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data())
def test_a_client_takes_no_message_for_another(kind: str, stage: Stage, data: st.DataObject) -> None:
    """A mutant of a good request is refused; or it is the very request, in what this client reads of it."""
    if stage is Stage.ADVERTISE_KEYS:
        return
    made = group(POLICIES[kind], 5).to(stage)
    request = made.server.request(1)
    assert request is not None
    message = data.draw(mutated(request, everything_said_once(kind)))
    honest = made.fork().answer(1, request)
    answer = accepted(lambda: made.answer(1, message))
    if answer is None:
        refused(made.answer, 1, request, match="took no further part")
    elif message != request:
        # What it was told otherwise is bound into its answer, so that no two stories go together.
        other_session = answer[HEADER : HEADER + 32] != honest[HEADER : HEADER + 32]
        # The keys of a few neighbours cannot be held against the digest of all: whom they fool, its box does not open.
        unseen = kind == "sparse" and stage is Stage.SHARE_KEYS
        later = stage in (Stage.MASKED_INPUT, Stage.CONSISTENCY_CHECK, Stage.UNMASKING)
        assert other_session or answer == honest or later or unseen
        if stage is Stage.CONSISTENCY_CHECK and not other_session:
            assert answer[-64:] != honest[-64:], "one signature for two sets"


_SAID: dict[str, list[bytes]] = {}


def everything_said_once(kind: str) -> list[bytes]:
    if kind not in _SAID:
        _SAID[kind] = everything_said(kind)
    return _SAID[kind]


def test_a_short_message_says_nothing_of_its_sender() -> None:
    assert sender_of(b"pf") is None
    assert sender_of(EVERY["Consent"].to_bytes()) == 3
    refused(group(COMPLETE).server.receive, 0, b"pf", match="cut short", stage="advertise_keys", peer="client 0")
