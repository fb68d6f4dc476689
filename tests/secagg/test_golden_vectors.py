"""The protocol on the wire is what ``tests/vectors/secagg`` says, byte by byte; what must be refused is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from make_vectors import FOLDER, LOST, NARROW, SEEDS, malicious, malicious_active, numbers, round_of
from secagg_cohort import POLICIES, group, refused, remember

from privfl.secagg.packing import Bits
from privfl.secagg.session import Stage

FORGED: list[dict[str, Any]] = [
    entry for name in ("malicious", "malicious_active") for entry in json.loads((FOLDER / f"{name}.json").read_text())
]


@pytest.fixture(autouse=True)
def _remember(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


@pytest.mark.parametrize("name", POLICIES)
def test_a_round_is_the_written_one(name: str) -> None:
    written = json.loads((FOLDER / f"{name.replace(', ', '_')}.json").read_text())
    # JSON knows no tuples.
    assert json.loads(json.dumps(round_of(name))) == written
    assert written["survivors"] == [0, 1, 3]
    total = [sum(written["vectors"][str(client)][place] for client in written["survivors"]) % 2**32 for place in range(5)]
    assert written["sum"] == total


@pytest.mark.parametrize("bits", NARROW)
def test_a_round_of_narrow_words_is_the_written_one(bits: Bits) -> None:
    written = json.loads((FOLDER / f"complete_{bits}_bits.json").read_text())
    assert json.loads(json.dumps(round_of("complete", bits))) == written
    total = [sum(written["vectors"][str(client)][place] for client in (0, 1, 3)) % 2**bits for place in range(5)]
    assert written["sum"] == total
    masked = [entry for entry in written["messages"] if entry["stage"] == "masked_input"]
    assert [len(entry["answer"]) // 2 - 52 for entry in masked] == [-(-5 * bits // 8)] * 3


@pytest.mark.parametrize("entry", FORGED, ids=[entry["name"] for entry in FORGED])
def test_a_malicious_message_is_refused(entry: dict[str, Any]) -> None:
    stage, policy = Stage(entry["stage"]), entry["round"]
    one = group(POLICIES[policy], seed=SEEDS.get(policy, "golden")).to(stage, LOST)
    message = bytes.fromhex(entry["message"])
    expected = {"match": entry["reason"], "stage": stage, "peer": entry["peer"]}
    if entry["receiver"] == "server":
        refused(one.server.receive, message, **expected)
        # The server goes on as if nothing had come.
        one.server.receive(one.answer(1, one.server.request(1)))
    else:
        refused(one.answer, 1, message, **expected)
        refused(one.answer, 1, one.server.request(1), match="took no further part")


def test_the_written_forgeries_are_those_that_are_made() -> None:
    assert malicious() + malicious_active() == FORGED


def test_the_written_numbers_are_those_that_are_made() -> None:
    assert json.loads(json.dumps(numbers())) == json.loads((FOLDER / "numbers.json").read_text())
