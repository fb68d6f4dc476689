"""The protocol on the wire is what ``tests/vectors/secagg`` says, byte by byte; what must be refused is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from make_vectors import FOLDER, LEFT_OUT, LIAR, LOST, ROUNDS, cohort, malicious, malicious_active, numbers, round_of
from secagg_cohort import refused, remember

from privfl.errors import ProtocolError
from privfl.secagg.agreement import unseal
from privfl.secagg.messages import MaskedInput, Shares
from privfl.secagg.packing import unpack
from privfl.secagg.session import Stage

FORGED: list[dict[str, Any]] = [
    entry for name in ("malicious", "malicious_active") for entry in json.loads((FOLDER / f"{name}.json").read_text())
]


@pytest.fixture(autouse=True)
def _remember(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_is_the_written_one(name: str) -> None:
    written = json.loads((FOLDER / f"{name}.json").read_text())
    # JSON knows no tuples.
    assert json.loads(json.dumps(round_of(name))) == written
    assert written["survivors"] == [int(client) for client in written["clients"] if client != "2"]
    bits = written["parameters"]["bits"]
    vectors = [written["clients"][str(client)]["vector"] for client in written["survivors"]]
    assert written["sum"] == [sum(column) % 2**bits for column in zip(*vectors, strict=True)]
    masked = [entry for entry in written["messages"] if entry["stage"] == "masked_input"]
    assert {len(entry["answer"]) // 2 - 52 for entry in masked} == {-(-5 * bits // 8)}


@pytest.mark.parametrize("entry", FORGED, ids=[entry["name"] for entry in FORGED])
def test_a_malicious_message_is_refused_or_survived(entry: dict[str, Any]) -> None:
    stage, message = Stage(entry["stage"]), bytes.fromhex(entry["message"])
    one = cohort(entry["round"]).to(stage, LOST)
    said = {"stage": stage, "peer": entry["peer"]}
    if entry["outcome"] == LIAR:
        one.close({**one.answers([1]), 1: message})
        assert np.array_equal(one.server.result().words_D, one.plain(one.server.survivors))
        assert [error.peer for error in one.server.liars.values()] == ["client 1"]
    elif entry["outcome"] == LEFT_OUT:
        held = set(cohort(entry["round"]).to(Stage.UNMASKING, LOST).clients[1]._held)
        one.answer(1, message)
        assert [f"client {owner}" for owner in held - set(one.clients[1]._held)] == [entry["peer"]]
    elif entry["receiver"] == "server":
        assert entry["reason"] in refusal(lambda: one.receive(message, 1), **said)
        # The server goes on as if nothing had come.
        one.receive(one.answer(1, one.server.request(1)))
    else:
        assert entry["reason"] in refusal(lambda: one.answer(1, message), **said)
        refused(one.answer, 1, one.server.request(1), match="took no further part")


def refusal(call: Callable[[], object], stage: str, peer: str) -> str:
    with pytest.raises(ProtocolError) as caught:
        call()
    assert (caught.value.stage, caught.value.peer) == (stage, peer)
    return str(caught.value)


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_can_be_judged_by_what_its_file_says_alone(name: str) -> None:
    """Shares are values of the polynomials, boxes hold them, and masked vectors are the vectors with the masks."""
    written = json.loads((FOLDER / f"{name}.json").read_text())
    session, clients = bytes.fromhex(written["session"]), written["clients"]
    threshold, bits = written["certificate"]["threshold"], written["parameters"]["bits"]
    drawn = written["certificate"]["graph"] == "sparse" and written["certificate"]["adversary"] == "active"
    said = {(entry["stage"], entry["client"]): bytes.fromhex(entry["answer"]) for entry in written["messages"]}
    for number, one in clients.items():
        assert len(one["polynomials"]) == threshold
        for x, holder in enumerate(one["holders"], start=1):
            dealt = [sum(c * x**j for j, c in enumerate(column)) % 32_771 for column in zip(*one["polynomials"], strict=True)]
            assert np.frombuffer(bytes.fromhex(one["shares"][str(holder)]), "<u2").tolist() == dealt
        context = session + (np.array(one["holders"], "<u4").tobytes() if drawn else b"")
        for row in Shares.from_bytes(said["share_keys", int(number)]).boxes:
            holder = str(int(row["client"]))
            key = bytes.fromhex(one["channel_keys"][holder])
            assert unseal(key, row["box"].tobytes(), int(number), int(holder), context).hex() == one["shares"][holder]
            assert row["tags"].tobytes().hex() == one["tags"][holder]
    for number in written["survivors"]:
        own = clients[str(number)]
        total = np.array(own["vector"], np.int64) + own["mask_words"]["self"]
        for peer in own["peers"]:
            total += np.array(own["mask_words"][str(peer)]) * (1 if number < peer else -1)
        masked = MaskedInput.from_bytes(said["masked_input", number])
        assert unpack(masked.packed, 5, bits).tolist() == (total % 2**bits).tolist()


def test_the_written_forgeries_are_those_that_are_made() -> None:
    assert malicious() + malicious_active() == FORGED


def test_the_written_numbers_are_those_that_are_made() -> None:
    assert json.loads(json.dumps(numbers())) == json.loads((FOLDER / "numbers.json").read_text())
