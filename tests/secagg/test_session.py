from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from secagg_cohort import parameters, refused

from privfl.errors import ConfigError
from privfl.secagg import messages, session
from privfl.secagg.session import check_model, check_roster, session_id

KEYS = {1: b"a" * 31 + b"\0", 2: b"b" * 31 + b"\0"}
MODEL = np.zeros(5, np.float32)


def test_everything_that_must_be_agreed_upon_changes_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    base = parameters()
    changed_model = MODEL.copy()
    changed_model[-1] = np.nextafter(np.float32(0), np.float32(1))
    sessions = [
        session_id(base, KEYS, MODEL),
        session_id(replace(base, round=4), KEYS, MODEL),
        session_id(replace(base, dimension=6), KEYS, MODEL),
        session_id(replace(base, population=11), KEYS, MODEL),
        session_id(replace(base, clip=8.5), KEYS, MODEL),
        session_id(replace(base, minimum_clients=3), KEYS, MODEL),
        session_id(replace(base, layout_digest=bytes(32)), KEYS, MODEL),
        session_id(base, KEYS | {2: b"c" * 32}, MODEL),
        session_id(base, {1: KEYS[2], 2: KEYS[1]}, MODEL),
        session_id(base, {1: KEYS[1], 3: KEYS[2]}, MODEL),
        session_id(base, KEYS | {3: b"c" * 32}, MODEL),
        session_id(base, KEYS, changed_model),
        session_id(base, KEYS, -MODEL),
    ]
    monkeypatch.setattr(session, "VERSION", messages.VERSION + 1)
    sessions.append(session_id(base, KEYS, MODEL))
    assert len(set(sessions)) == len(sessions)
    assert {len(found) for found in sessions} == {32}


def test_the_order_in_which_keys_came_does_not_matter() -> None:
    assert session_id(parameters(), KEYS, MODEL) == session_id(parameters(), dict(reversed(KEYS.items())), MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"minimum_clients": 1},
        {"minimum_clients": 0},
        {"minimum_clients": 11},
        {"population": 1},
        {"population": 2**32},
        {"round": -1},
        {"round": 2**32},
        {"dimension": 0},
        {"layout_digest": b"short"},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"clip": 2.0**31},
        {"population": 2**28},
    ],
    ids=str,
)
def test_senseless_parameters_are_refused_at_set_up(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(parameters(), **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model", [np.zeros(4, np.float32), np.zeros(5), np.zeros((5, 1), np.float32)], ids=["D", "type", "shape"]
)
def test_a_model_of_another_kind_is_refused(model: Any) -> None:
    refused(check_model, parameters(dimension=5), model, match="global model")
    check_model(parameters(dimension=5), MODEL)


def test_a_roster_that_hides_nobody_is_refused() -> None:
    keys = {client: bytes([client]) * 31 + b"\0" for client in range(11)}
    some = parameters(population=10, floor=4)
    check_roster(some, dict(list(keys.items())[:4]))
    check_roster(some, dict(list(keys.items())[:10]))
    refused(check_roster, some, dict(list(keys.items())[:3]), match="at least 4")
    refused(check_roster, some, {}, match="at least 4")
    refused(check_roster, some, keys, match="at most 10")
    refused(check_roster, some, {**dict(list(keys.items())[:4]), 20: keys[0]}, match="one each")
    refused(check_roster, some, {**dict(list(keys.items())[:4]), 20: b"\xff" * 32}, match="below")
