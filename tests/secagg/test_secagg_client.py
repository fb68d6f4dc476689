from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from secagg_cohort import cohort, parameters, patched, refused, rounding_key
from test_agreement import LOW_ORDER

from privfl.secagg.client import Client
from privfl.secagg.messages import SERVER, Advert, MaskedInput, Roster

MODEL = np.zeros(5, np.float32)
OTHER = b"k" * 31 + b"\0"


def altered(roster: bytes, changes: dict[int, bytes | None]) -> bytes:
    """The roster with some clients given another key, or none at all."""
    read = Roster.from_bytes(roster)
    keys = {client: key for client, key in (dict(read.keys) | changes).items() if key is not None}
    return Roster(read.round, tuple(sorted(keys.items()))).to_bytes()


def test_each_stage_is_answered_once() -> None:
    group = cohort()
    refused(group.answer, 0, b"", match="READY")
    roster = group.advertise()
    refused(group.clients[0].advertise, match="ADVERTISED")
    group.answer(0, roster)
    refused(group.answer, 0, roster, match="DONE")
    refused(group.clients[0].advertise, match="DONE")


def test_a_client_that_refused_a_roster_answers_no_other() -> None:
    group = cohort()
    roster = group.advertise()
    refused(group.answer, 0, roster[:-1], match="ROSTER")
    refused(group.answer, 0, roster, match="DONE")


@pytest.mark.parametrize("key", [None, OTHER], ids=["absent", "another"])
def test_a_roster_without_the_client_or_with_another_key_for_it_is_refused(key: bytes | None) -> None:
    group = cohort()
    refused(group.answer, 0, altered(group.advertise(), {0: key}), match="its own")


def test_two_clients_with_one_key_are_refused() -> None:
    for twin in (0, 1):
        group = cohort()
        roster = group.advertise()
        key = dict(Roster.from_bytes(roster).keys)[twin]
        refused(group.answer, 0, altered(roster, {2: key}), match="one each")


def test_a_client_listed_twice_is_refused() -> None:
    for other in (None, OTHER):
        group = cohort()
        keys = Roster.from_bytes(group.advertise()).keys
        double = Roster(3, (keys[0], (0, other or keys[0][1]), *keys[1:]))
        refused(group.answer, 0, double.to_bytes(), match="twice")


@pytest.mark.parametrize("point", [*LOW_ORDER, "ff" * 32])
def test_a_key_that_shares_no_secret_is_refused(point: str) -> None:
    group = cohort()
    refused(group.answer, 0, altered(group.advertise(), {1: bytes.fromhex(point)}), match="public key")


def test_a_roster_below_the_floor_is_refused() -> None:
    alone = cohort()
    refused(alone.answer, 0, altered(alone.advertise(), {1: None, 2: None}), match="at least 2")
    group = cohort()
    careful = Client(7, replace(group.parameters, minimum_clients=5), MODEL)
    key = Advert.from_bytes(careful.advertise()).public_key
    refused(careful.answer, altered(group.advertise(), {7: key}), MODEL, 1.0, rounding_key(7), match="at least 5")


def test_a_roster_beyond_the_population_is_refused_because_its_sum_could_wrap() -> None:
    group = cohort(clients=3)
    strangers: dict[int, bytes | None] = {client: bytes([client]) * 31 + b"\0" for client in range(10, 18)}
    refused(group.answer, 0, altered(group.advertise(), strangers), match="at most 10")


def test_a_roster_of_another_round_or_version_is_refused() -> None:
    for at, value, match in ((4, b"\x04", "round 4"), (2, b"\x02", "version 2")):
        group = cohort()
        refused(group.answer, 0, patched(group.advertise(), at, value), match=match)


def test_a_roster_of_an_old_session_is_refused() -> None:
    old = cohort().advertise()
    group = cohort()
    group.advertise()
    refused(group.answer, 0, old, match="its own")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_sends_nothing(bad: float) -> None:
    group = cohort()
    group.updates[0][2] = bad
    refused(group.answer, 0, group.advertise(), match="finite")


def test_an_update_of_another_length_or_a_weight_out_of_range_sends_nothing() -> None:
    for delta, weight, match in ((np.zeros(6), 1.0, "shape"), (np.zeros((5, 1)), 1.0, "shape"), (np.zeros(5), 1.5, "weight")):
        group = cohort()
        refused(group.clients[0].answer, group.advertise(), delta, weight, rounding_key(0), match=match)


@pytest.mark.parametrize("number", [-1, SERVER, 2**40])
def test_a_number_that_does_not_fit_is_refused(number: int) -> None:
    refused(Client, number, parameters(), MODEL, match="must be in")


def test_the_answer_names_its_session_and_has_one_word_more_than_the_model() -> None:
    group = cohort()
    roster = group.advertise()
    answers = [MaskedInput.from_bytes(group.answer(index, roster)) for index in range(3)]
    assert {len(answer.words) for answer in answers} == {6}
    assert len({answer.session for answer in answers}) == 1
    assert [answer.sender for answer in answers] == [0, 1, 2]
    assert {answer.round for answer in answers} == {3}


def test_clipping_is_counted_and_stays_with_the_client() -> None:
    group = cohort()
    group.updates[1][:2] = [9.0, -8.5]
    group.answers()
    assert [client.clipped for client in group.clients] == [0, 2, 0]
