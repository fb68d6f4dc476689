"""Whatever bytes come, a parser and a state machine answer with a ProtocolError or take them for exactly what they say."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from secagg_cohort import COMPLETE_ACTIVE, Group, group, remember

from privfl.errors import ProtocolError
from privfl.secagg.framing import SERVER, Kind
from privfl.secagg.messages import (
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
)
from privfl.secagg.session import Stage

PARSERS: dict[Kind, Any] = {
    Kind.ADVERT: Advert,
    Kind.ROSTER: Roster,
    Kind.SHARES: Shares,
    Kind.DELIVERY: Delivery,
    Kind.MASKED_INPUT: MaskedInput,
    Kind.SURVIVORS: Survivors,
    Kind.CONSENT: Consent,
    Kind.CONSENTS: Consents,
    Kind.REVEAL: Reveal,
    Kind.REFUSAL: Refusal,
}


@functools.cache
def stages() -> dict[Stage, tuple[Group, bytes | None, bytes]]:
    """Before each stage of an active round: the cohort, the request to client 1 and its answer."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        remember(patch)
        for stage in Stage:
            one = group(COMPLETE_ACTIVE).to(stage)
            request = one.server.request(1)
            found[stage] = one, request, one.fork().answer(1, request)
    return found


def valid() -> list[bytes]:
    said = [message for _, request, answer in stages().values() for message in (request, answer) if message is not None]
    return [*said, Refusal(3, 1, 0, 2, SERVER, "it is another roster").to_bytes()]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid message with bytes changed, cut out, put in or spliced from another, and at times a length put right."""
    messages = valid()
    message = bytearray(draw(st.sampled_from(messages)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(message) - 1)) if message else 0
        match draw(st.sampled_from(["flip", "set", "cut", "put", "splice", "number"])):
            case "flip" if message:
                message[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if message:
                message[at] = draw(st.integers(0, 255))
            case "cut":
                del message[at : at + draw(st.integers(1, 100))]
            case "put":
                message[at:at] = draw(st.binary(min_size=1, max_size=100))
            case "splice":
                message[at:] = draw(st.sampled_from(messages))[at:]
            case _:
                # Counts and lengths are where a parser is most easily misled.
                message[at : at + 4] = draw(st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1])).to_bytes(4, "little")
    if draw(st.booleans()) and len(message) >= 20:
        message[12:20] = (len(message) - 20).to_bytes(8, "little")
    return bytes(message)


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=1500)
@given(damaged())
@example(b"")
@example(b"pf")
def test_a_parser_refuses_or_reads_exactly_what_is_written(message: bytes) -> None:
    for parser in PARSERS.values():
        try:
            read = parser.from_bytes(message)
        except ProtocolError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        assert read.to_bytes() == message


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=250)
@given(damaged(), st.sampled_from(list(Stage)))
def test_a_server_refuses_what_it_cannot_use_and_stays_as_it_was(message: bytes, stage: Stage) -> None:
    one = stages()[stage][0].fork()
    before, total = one.server.answered, one.server._sum_D.copy()
    try:
        one.receive(message, 1)
    except ProtocolError as error:
        assert error.stage == stage  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        assert one.server.answered == before
        assert np.array_equal(one.server._sum_D, total)
    else:
        assert len(one.server.answered) == len(before) + (message[3] != Kind.REFUSAL)


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=250)
@given(damaged(), st.sampled_from([stage for stage in Stage if stage is not Stage.ADVERTISE_KEYS]))
def test_a_client_refuses_what_it_cannot_use_and_says_nothing_more(message: bytes, stage: Stage) -> None:
    one, request, _ = stages()[stage]
    one = one.fork()
    if message == request:
        return
    try:
        one.answer(1, message, stage)
    except ProtocolError as error:
        assert error.stage == stage  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        with pytest.raises(ProtocolError, match="took no further part"):
            one.answer(1, request, stage)
    else:
        # What it may take without knowing better: a server that says other things to everybody.
        assert message[3] == {Stage.MASKED_INPUT: 4, Stage.CONSISTENCY_CHECK: 6}.get(stage, 0), message.hex()


def test_the_fuzzer_gets_past_the_header() -> None:
    """The damage is not so great that only the first check is ever made, nor so small that none is."""
    accepted, reasons = 0, set()

    @settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=1500, database=None)
    @given(damaged())
    def count(message: bytes) -> None:
        nonlocal accepted
        for parser in PARSERS.values():
            try:
                parser.from_bytes(message)
            except ProtocolError as error:
                reasons.add(re.sub(r"[0-9]+|b'.*?'", "", error.reason))
            else:
                accepted += 1

    count()
    # Which examples are drawn may differ between processes: only what hundreds of them meet is asked for.
    assert accepted > 10
    assert any("out of order" in reason for reason in reasons)
    assert any("rows of" in reason for reason in reasons)
