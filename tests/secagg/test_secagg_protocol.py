"""The whole protocol: what it computes, and what it hides.

Each property that protects privacy is a function, so that the mutants of ``test_secagg_mutants.py`` can be held against
the very same checks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_cohort import Cohort, assert_equal_sums, assert_uniform, cohort, masked_words, parameters, refused

from privfl.errors import ProtocolError
from privfl.secagg.messages import MaskedInput, Roster

WORDS = 20_000


# --- what it computes -----------------------------------------------------------------------------------------------


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    clients, dimension = draw(st.integers(2, 7)), draw(st.integers(1, 9))
    entries = st.floats(width=32, allow_nan=False, allow_infinity=False)
    vectors = st.lists(entries, min_size=dimension, max_size=dimension)
    updates = [np.array(draw(vectors), np.float32) for _ in range(clients)]
    weights = draw(st.lists(st.floats(0.01, 1), min_size=clients, max_size=clients))
    names = draw(st.lists(st.integers(0, 2**32 - 2), min_size=clients, max_size=clients, unique=True))
    population = draw(st.integers(clients, 1000))
    clip = draw(st.floats(1e-3, 1e3))
    return Cohort(updates, weights, parameters(dimension, population=population, clip=clip), names)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(cohorts())
def test_the_sum_is_the_plain_sum_bit_for_bit(group: Cohort) -> None:
    assert_equal_sums(group.run(), group.plain())


def test_over_many_chunks_too() -> None:
    group = cohort(clients=3, dimension=70_000)
    assert_equal_sums(group.run(), group.plain())


def test_the_order_of_arrival_does_not_matter() -> None:
    group = cohort(clients=5)
    for message in reversed(group.answers()):
        group.server.receive_input(message)
    assert_equal_sums(group.server.unmask(), group.plain())


def test_keys_are_fresh_and_the_result_repeats() -> None:
    one, other = cohort(), cohort()
    assert one.answers() != other.answers()
    assert_equal_sums(cohort().run(), cohort().run())


def test_a_full_population_of_equal_extremes_does_not_wrap() -> None:
    for sign in (1, -1):
        for clip in (8.0, 0.1, 2.0**21 - 1):
            extremes = [np.full(5, sign * 1e30, np.float32)] * 10
            found = Cohort(extremes, [1.0] * 10, parameters(population=10, clip=clip)).run()
            assert found.weight_sum == 10
            assert np.allclose(found.mean(), sign * clip, rtol=0, atol=1 / parameters(clip=clip).encoding.update.scale)


def test_zero_vectors_add_up_to_zero() -> None:
    group = Cohort([np.zeros(5, np.float32)] * 3, [1.0, 0.0, 0.5], parameters())
    found = group.run()
    assert found.sum_D.tolist() == [0.0] * 5
    assert found.weight_sum == 1.5


# --- what it hides --------------------------------------------------------------------------------------------------


def masked(clients: int = 3, number: int = 3, dimension: int = WORDS) -> list[np.ndarray[tuple[int], np.dtype[np.uint32]]]:
    """What the server sees of clients whose vectors are all zero."""
    zero = np.zeros(dimension, np.float32)
    group = Cohort([zero] * clients, [0.0] * clients, parameters(dimension, number))
    return [masked_words(message) for message in group.answers()]


def check_masked_vectors_are_uniform() -> None:
    """Each client's vector, and each sum over all clients but one, looks uniform."""
    for clients in (2, 3, 5):
        seen = masked(clients)
        total = np.sum(seen, axis=0, dtype=np.uint32)
        for words in seen:
            assert_uniform(words)
            if clients > 2:
                assert_uniform(total - words)


def check_masked_vectors_are_unrelated() -> None:
    """The differences between two clients, and of one client between two rounds, look uniform."""
    one, other = masked(number=3), masked(number=4)
    again = masked(number=3)
    for index in range(3):
        assert_uniform(one[index] - one[index - 1])
        assert_uniform(one[index] - other[index])
        assert_uniform(one[index] - again[index])
        assert_uniform(one[index] + other[index])


def check_masks_cancel() -> None:
    group = cohort(clients=4, dimension=200)
    try:
        found = group.run()
    except ProtocolError as error:
        raise AssertionError(str(error)) from error
    assert_equal_sums(found, group.plain())


def split_view(sessions_named_alike: bool = True) -> Cohort:
    """The server sends client 2 a model of its own; the malicious server itself does not mind."""
    honest, other = np.zeros(WORDS, np.float32), np.ones(WORDS, np.float32)
    group = cohort(clients=3, dimension=WORDS)
    group = Cohort(group.updates, group.weights, group.parameters, models=[honest, honest, other])
    for message in group.answers():
        read = MaskedInput.from_bytes(message)
        session = group.server._session if sessions_named_alike else read.session
        group.server.receive_input(replace(read, session=session).to_bytes())
    return group


def check_a_split_view_is_noise() -> None:
    """Clients who were sent different models do not add up, even for a server that pretends they do."""
    group = split_view()
    refused(group.server.unmask, match="noise")
    assert_uniform(group.server._sum_D1)


def test_masked_vectors_are_uniform() -> None:
    check_masked_vectors_are_uniform()


def test_masked_vectors_are_unrelated() -> None:
    check_masked_vectors_are_unrelated()


def test_masks_cancel() -> None:
    check_masks_cancel()


def test_a_split_view_is_noise() -> None:
    check_a_split_view_is_noise()


@pytest.mark.parametrize("change", ["two keys swapped", "a client left out"])
def test_clients_with_different_rosters_do_not_add_up(change: str) -> None:
    group = cohort(clients=4, dimension=WORDS)
    roster = group.advertise()
    keys = dict(Roster.from_bytes(roster).keys)
    other = {0: keys[1], 1: keys[0], 2: keys[2], 3: keys[3]} if change == "two keys swapped" else {1: keys[1], 3: keys[3]}
    special = Roster(3, tuple(sorted(other.items()))).to_bytes()
    for index in range(4):
        read = MaskedInput.from_bytes(group.answer(index, special if index == 3 else roster))
        group.server.receive_input(replace(read, session=group.server._session).to_bytes())
    refused(group.server.unmask, match="noise")
    assert_uniform(group.server._sum_D1)


def test_an_honest_server_notices_a_split_view_at_once() -> None:
    refused(split_view, False, match="global model")


def test_a_server_that_answers_for_a_client_learns_a_sum_of_the_others_only() -> None:
    # The server colludes with client 2 of 4 and knows its keys: what is left is masked by the honest pairs.
    seen = masked(4)
    assert_uniform(seen[0])
    assert_uniform(seen[0] + seen[1])
    assert not np.any(np.sum(seen, axis=0, dtype=np.uint32)), "all together: the sum of the zero vectors"
