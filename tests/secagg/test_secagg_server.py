from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from secagg_cohort import assert_equal_sums, cohort, parameters, patched, refused, rounding_key

from privfl.secagg.client import Client
from privfl.secagg.messages import Advert, MaskedInput
from privfl.secagg.server import Server

MODEL = np.zeros(5, np.float32)


def advert(client: int, key: bytes | None = None, number: int = 3) -> bytes:
    return Advert(number, client, key or bytes([client + 1]) * 31 + b"\0").to_bytes()


# --- keys -----------------------------------------------------------------------------------------------------------


def test_only_the_cohort_is_let_in_and_each_once() -> None:
    server = Server(parameters(), [0, 1], MODEL)
    server.receive_advert(advert(0))
    refused(server.receive_advert, advert(0), match="twice")
    refused(server.receive_advert, advert(0, key=b"o" * 31 + b"\0"), match="twice")
    refused(server.receive_advert, advert(2), match="not of the cohort")
    refused(server.receive_advert, advert(1, number=2), match="round 2")
    refused(server.receive_advert, advert(1, key=bytes([1]) * 31 + b"\0"), match="another client's key")
    refused(server.receive_advert, advert(1, key=b"\xff" * 32), match="below")
    refused(server.receive_advert, advert(1)[:-1], match="ADVERT")
    server.receive_advert(advert(1))
    server.roster()


def test_the_roster_waits_for_everyone() -> None:
    server = Server(parameters(), [0, 1, 2], MODEL)
    server.receive_advert(advert(0))
    refused(server.roster, match=r"client 1 (2 in all) sent no key")


@pytest.mark.parametrize(("cohort_size", "match"), [(0, "at least 2"), (1, "at least 2"), (11, "at most 10")])
def test_an_empty_a_lone_and_a_huge_cohort_are_refused(cohort_size: int, match: str) -> None:
    server = Server(parameters(), range(cohort_size), MODEL)
    for client in range(cohort_size):
        server.receive_advert(advert(client))
    refused(server.roster, match=match)


def test_stages_come_in_order() -> None:
    group = cohort()
    refused(group.server.unmask, match="waits for ADVERTS")
    refused(group.server.receive_input, b"", match="waits for ADVERTS")
    answers = group.answers()
    refused(group.server.roster, match="waits for INPUTS")
    refused(group.server.receive_advert, advert(0), match="waits for INPUTS")
    for message in answers:
        group.server.receive_input(message)
    group.server.unmask()
    refused(group.server.unmask, match="waits for DONE")
    refused(group.server.receive_input, answers[0], match="waits for DONE")


# --- masked vectors -------------------------------------------------------------------------------------------------


def test_a_refused_vector_leaves_the_sum_as_it_was() -> None:
    group = cohort()
    answers = group.answers()
    first, masked = answers[0], MaskedInput.from_bytes(answers[0])
    wrong = [
        replace(masked, words=masked.words[:1]).to_bytes(),
        first[:-4],
        first + bytes(4),
        replace(masked, words=masked.words[:-1]).to_bytes(),
        replace(masked, words=np.append(masked.words, masked.words)).to_bytes(),
        replace(masked, words=masked.words[:0]).to_bytes(),
        replace(masked, session=b"o" * 32).to_bytes(),
        replace(masked, round=4).to_bytes(),
        replace(masked, sender=9).to_bytes(),
        patched(first, 2, b"\x02"),
        advert(0),
        b"",
    ]
    for message in wrong:
        refused(group.server.receive_input, message)
    for message in answers:
        group.server.receive_input(message)
        refused(group.server.receive_input, message, match="twice")
    assert_equal_sums(group.server.unmask(), group.plain())


def test_a_missing_vector_is_no_sum() -> None:
    group = cohort()
    for message in group.answers()[:-1]:
        group.server.receive_input(message)
    refused(group.server.unmask, match="client 2 (1 in all) sent no masked vector")


def test_a_vector_of_an_old_round_is_refused_even_under_a_new_number() -> None:
    old = MaskedInput.from_bytes(cohort().answers()[0])
    group = cohort(number=4)
    group.answers()
    refused(group.server.receive_input, old.to_bytes(), match="round 3")
    refused(group.server.receive_input, replace(old, round=4).to_bytes(), match="session")


def test_a_forged_vector_makes_noise_and_noise_is_refused() -> None:
    # The range check lets noise pass with the odds (share of the ring that K clients can reach)^D, here below 1e-100.
    group = cohort(dimension=1000)
    answers = group.answers()
    forged = replace(MaskedInput.from_bytes(answers[1]), words=np.zeros(1001, np.uint32)).to_bytes()
    for message in (answers[0], forged, answers[2]):
        group.server.receive_input(message)
    refused(group.server.unmask, match="noise")


def test_two_swapped_vectors_are_still_the_sum() -> None:
    # Addition is commutative: who of the cohort sent which vector is nothing that the server can or need tell.
    group = cohort()
    answers = [MaskedInput.from_bytes(message) for message in group.answers()]
    for one, other in zip(answers, [answers[1], answers[0], answers[2]], strict=True):
        group.server.receive_input(replace(one, sender=other.sender).to_bytes())
    assert_equal_sums(group.server.unmask(), group.plain())


def test_a_client_with_other_parameters_is_in_another_session() -> None:
    changes: list[dict[str, Any]] = [{"clip": 4.0}, {"population": 11}, {"layout_digest": bytes(32)}, {"minimum_clients": 3}]
    for change in changes:
        group = cohort()
        group.clients[2] = Client(2, replace(group.parameters, **change), MODEL)
        answers = group.answers()
        refused(group.server.receive_input, answers[2], match="another session")


def test_weights_of_zero_are_refused() -> None:
    group = cohort()
    group.weights = [0.0, 0.0, 0.0]
    for message in group.answers():
        group.server.receive_input(message)
    refused(group.server.unmask, match="weights add up to 0.0")


def test_a_client_that_lies_about_its_length_cannot_join() -> None:
    group = cohort()
    short = Client(2, parameters(dimension=4), np.zeros(4, np.float32))
    group.clients[2], group.updates[2] = short, np.zeros(4, np.float32)
    roster = group.advertise()
    refused(group.server.receive_input, short.answer(roster, np.zeros(4), 1.0, rounding_key(2)), match="another session")
