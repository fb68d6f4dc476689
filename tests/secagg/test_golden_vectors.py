"""The protocol on the wire is what ``tests/vectors/secagg`` says, byte by byte; what must be refused is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from make_vectors import FOLDER, LOST, malicious, round_of
from secagg_cohort import POLICIES, group, refused, remember

from privfl.secagg.session import Stage

FORGED: list[dict[str, Any]] = json.loads((FOLDER / "malicious.json").read_text())


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


@pytest.mark.parametrize("entry", FORGED, ids=[entry["name"] for entry in FORGED])
def test_a_malicious_message_is_refused(entry: dict[str, Any]) -> None:
    stage = Stage(entry["stage"])
    one, message = group(POLICIES["complete"], seed="golden").to(stage, LOST), bytes.fromhex(entry["message"])
    expected = {"match": entry["reason"], "stage": stage, "peer": entry["peer"]}
    if entry["receiver"] == "server":
        refused(one.server.receive, message, **expected)
        # The server goes on as if nothing had come.
        one.server.receive(one.answer(1, one.server.request(1)))
    else:
        refused(one.answer, 1, message, **expected)
        refused(one.answer, 1, one.server.request(1), match="took no further part")


def test_the_written_forgeries_are_those_that_are_made() -> None:
    assert malicious() == FORGED
