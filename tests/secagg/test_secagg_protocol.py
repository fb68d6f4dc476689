"""The whole protocol: what it computes, and what it hides.

Each property that protects privacy is a function, so that the mutants of ``test_secagg_mutants.py`` can be held against
the very same checks.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from secagg_cohort import POLICIES, Group, assert_uniform, entropy, group, parameters, refused, remember

from privfl.errors import ProtocolError
from privfl.secagg import certificate
from privfl.secagg.agreement import MASK, self_mask_key
from privfl.secagg.certificate import Policy
from privfl.secagg.client import Client
from privfl.secagg.encoding import FixedPoint
from privfl.secagg.identity import Directory, Identity
from privfl.secagg.memory import Memory
from privfl.secagg.messages import Reveal
from privfl.secagg.packing import TYPES, Bits
from privfl.secagg.prg import CHUNK_BYTES, Keystream, Words, mask
from privfl.secagg.server import Server
from privfl.secagg.session import Stage
from privfl.secagg.simulation import play

WORDS = 20_000
BITS: tuple[Bits, ...] = (16, 20, 24, 32, 64)
every_policy = pytest.mark.parametrize("kind", POLICIES)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


# --- what it computes -----------------------------------------------------------------------------------------------


@every_policy
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("length", [1, 7, 64])
def test_the_sum_is_the_plain_sum_bit_for_bit(kind: str, bits: Bits, length: int) -> None:
    made = group(POLICIES[kind], 5, bits=bits, length=length)
    found = made.end()
    assert found.survivors == made.numbers
    assert found.words_D.dtype == TYPES[bits]
    assert np.array_equal(found.words_D, made.plain(made.numbers))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.integers(0, 2**32 - 2), min_size=4, max_size=9, unique=True), st.sampled_from(BITS), st.data())
def test_any_numbers_and_any_loss_that_is_allowed_for(numbers: list[int], bits: Bits, data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from([POLICIES["complete"], POLICIES["complete, active"]]))
    made = Group(parameters(policy, bits=bits, cohort=len(numbers)), tuple(sorted(numbers)))
    stages = made.parameters.stages
    lost = {data.draw(st.sampled_from(made.numbers)): data.draw(st.sampled_from(stages))}
    found = made.end(lost)
    expected = [one for one in made.numbers if stages.index(lost.get(one, Stage.UNMASKING)) > 2]
    assert found.survivors == tuple(expected)
    assert np.array_equal(found.words_D, made.plain(expected))


@pytest.mark.parametrize("threads", [1, 3])
def test_over_many_chunks_and_threads_too(threads: int) -> None:
    made = group(length=3 * CHUNK_BYTES // 4 + 5)
    made.server._threads = threads
    for client in made.clients.values():
        client._threads = threads
    found = made.end({1: Stage.MASKED_INPUT})
    assert np.array_equal(found.words_D, made.plain((0, 2, 3)))


def test_a_larger_sparse_cohort_that_is_certified() -> None:
    for adversary in ("semi_honest", "active"):
        policy = Policy(graph="sparse", adversary=adversary)
        made = Group(parameters(policy, population=100, cohort=100), tuple(range(100)))
        lost = {7: Stage.SHARE_KEYS, 13: Stage.MASKED_INPUT, 50: Stage.MASKED_INPUT, 99: Stage.UNMASKING}
        found = made.end(lost)
        assert found.survivors == tuple(one for one in range(100) if one not in (7, 13, 50))
        assert np.array_equal(found.words_D, made.plain(found.survivors))
        numbers = made.server.certificate
        assert numbers is not None
        assert numbers.graph == "sparse"
        assert numbers.log2_insecure <= -40


def test_the_order_of_arrival_does_not_matter() -> None:
    made, twin = group(), group()
    while made.server.stage is not None:
        made.close(dict(reversed(made.answers().items())))
    assert np.array_equal(made.server.result().words_D, twin.end().words_D)


def test_entropy_of_the_operating_system_is_the_default_and_the_sum_does_not_show_it() -> None:
    some, model = parameters(POLICIES["complete, active"]), np.zeros(3, np.float32)
    identities = {number: Identity(os.urandom(32)) for number in range(4)}
    directory = Directory({number: identity.public for number, identity in identities.items()})
    heard: list[list[bytes]] = []
    for _ in range(2):
        clients = {n: Client(n, some, model, identity=identities[n], directory=directory, memory=Memory()) for n in range(4)}
        server = Server(some, range(4), model, directory=directory)
        keys: list[bytes] = []

        def vector(number: int, clients: dict[int, Client] = clients, keys: list[bytes] = keys) -> Words:
            one = clients[number]
            keys.append(one._channel.private + one._mask.private + one._seed)
            return group().vector(number)

        found = play(server, clients, vector, {3: Stage.MASKED_INPUT})
        assert np.array_equal(found.words_D, group().plain((0, 1, 2)))
        heard.append(keys)
    assert len({key for one in heard for key in one}) == 6


# --- what it hides --------------------------------------------------------------------------------------------------


def masked(made: Group, silent: tuple[int, ...] = ()) -> dict[int, NDArray[Any]]:
    """What the server is sent of clients whose vectors are all zero."""
    made.to(Stage.MASKED_INPUT)
    return {number: made.words(message).copy() for number, message in made.answers(silent).items()}


def hidden(kind: str, seed: str = "group", bits: Bits = 32, number: int = 3, clients: int = 4) -> Group:
    some = parameters(POLICIES[kind], length=WORDS, bits=bits, round=number)
    return Group(some, tuple(range(clients)), seed, zero=True)


def check_masked_vectors_are_uniform() -> None:
    """Each client's vector, and each sum over all clients but one, looks uniform."""
    for kind in POLICIES:
        made = hidden(kind)
        seen = masked(made)
        total = sum(seen.values(), np.zeros(WORDS, np.uint32))
        for words in seen.values():
            assert_uniform(words)
            assert_uniform(total - words)


def check_self_masks_hide_who_came_too_late() -> None:
    """The server claims a client lost, learns its mask key, and then its vector arrives: its own mask still hides it."""
    made = hidden("complete")
    seen, late = masked(made), 3
    words, one = seen[late].copy(), made.clients[late]
    for peer in (0, 1, 2):
        key = one._mask.shared_key(made.clients[peer]._mask.public, one._masking, MASK)
        # The late client has the largest number: it subtracted all its masks.
        mask(words, [key], [])
    assert_uniform(words)
    mask(words, [], [self_mask_key(one._seed, one._masking)])
    assert not words.any(), "with the seed as well nothing is left: the protocol never reveals both"


def check_masks_between_clients_hide_survivors() -> None:
    """With all self masks off, any sum over less than all survivors still looks uniform."""
    made = hidden("complete")
    seen = masked(made)
    for number, words in seen.items():
        mask(words, [], [self_mask_key(made.clients[number]._seed, made.clients[number]._masking)])
    for chosen in ((0,), (3,), (0, 1), (1, 3), (0, 1, 2)):
        assert_uniform(sum((seen[one] for one in chosen), np.zeros(WORDS, np.uint32)))
    assert not sum(seen.values(), np.zeros(WORDS, np.uint32)).any()


def check_masked_vectors_are_unrelated() -> None:
    """The differences between two clients, two rounds and two attempts at a round look uniform."""
    one, again, other = (masked(hidden("complete", seed, number=n)) for seed, n in (("a", 3), ("b", 3), ("c", 4)))
    for index in range(4):
        assert_uniform(one[index] - one[(index + 1) % 4])
        assert_uniform(one[index] - again[index])
        assert_uniform(one[index] - other[index])
        assert_uniform(one[index] + other[index])


def test_masked_vectors_are_uniform() -> None:
    check_masked_vectors_are_uniform()


def test_self_masks_hide_who_came_too_late() -> None:
    check_self_masks_hide_who_came_too_late()


def test_masks_between_clients_hide_survivors() -> None:
    check_masks_between_clients_hide_survivors()


def test_masked_vectors_are_unrelated() -> None:
    check_masked_vectors_are_unrelated()


@pytest.mark.parametrize("bits", BITS)
def test_words_of_every_size_are_uniform(bits: Bits) -> None:
    words = masked(hidden("complete", bits=bits))[1]
    if bits in (20, 24):
        # The upper bits do not travel; the lower 16 are tested, and for 20 bits the four above them by their counts.
        assert not (words >> np.uint32(bits)).any()
        upper = np.bincount(words >> np.uint32(16), minlength=1 << (bits - 16))
        assert scipy.stats.chisquare(upper).pvalue > 1e-9
        words = words.astype(np.uint16)
    assert_uniform(words)


def test_a_server_in_league_with_all_but_two_sees_their_sum_only() -> None:
    made = hidden("complete")
    seen = masked(made)
    total = seen[0] + seen[1]
    for number in (0, 1):
        assert_uniform(seen[number])
    mask(total, [], [self_mask_key(made.clients[number]._seed, made.clients[number]._masking) for number in (0, 1)])
    for corrupt in (2, 3):
        one = made.clients[corrupt]
        # A corrupt client has the largest number, so that the honest added what it subtracted.
        mask(total, [], [one._mask.shared_key(made.clients[peer]._mask.public, one._masking, MASK) for peer in (0, 1)])
    assert not total.any(), "all together: the sum of the two zero vectors"


def simulated(clients: int, total: NDArray[Any], name: str) -> list[NDArray[Any]]:
    """A view made from the sum alone: uniform vectors that add up to it."""
    vectors = []
    for number in range(clients - 1):
        words = np.empty(len(total), np.uint32)
        Keystream(entropy(name, number)(32)).fill(words)
        vectors.append(words)
    return [*vectors, total - sum(vectors, np.zeros(len(total), np.uint32))]


def statistics(vectors: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Numbers that are standard normal for a simulated view: means, variances and correlations of what was sent."""
    centred = np.array([words.astype(np.float64) / 2**32 - 0.5 for words in vectors[:-1]])
    root = np.sqrt(centred.shape[1])
    means = centred.mean(1) * root * np.sqrt(12)
    variances = ((centred**2).mean(1) - 1 / 12) * root * np.sqrt(180)
    lagged = (centred[:, 1:] * centred[:, :-1]).mean(1) * root * 12
    crossed = [(one * other).mean() * root * 12 for i, one in enumerate(centred) for other in centred[:i]]
    return np.concatenate([means, variances, lagged, crossed])


def check_a_view_could_have_been_made_from_the_sum() -> None:
    """Vectors that are the same at all clients, or all zero, or random: the server's view has the same statistics.

    Seven standard deviations: 1e-10 for all numbers together.
    """
    for kind in POLICIES:
        for zero in (True, False):
            made = Group(parameters(POLICIES[kind], length=WORDS), seed=kind, zero=zero).to(Stage.MASKED_INPUT)
            seen = [made.words(message) for message in made.answers().values()]
            seen = [words.copy() for words in seen]
            for number, words in enumerate(seen):
                # What unmasking reveals: the survivors' seeds.
                mask(words, [], [self_mask_key(made.clients[number]._seed, made.clients[number]._masking)])
            assert np.array_equal(sum(seen, np.zeros(WORDS, np.uint32)), made.plain(made.numbers))
            real, made_up = statistics(seen), statistics(simulated(4, made.plain(made.numbers), kind))
            assert np.abs(real).max() < 7, kind
            assert np.abs(made_up).max() < 7, kind


def test_a_view_could_have_been_made_from_the_sum() -> None:
    check_a_view_could_have_been_made_from_the_sum()


def test_revealed_shares_of_one_client_lie_on_a_polynomial_that_tells_its_seed_and_nothing_of_its_mask_key() -> None:
    made = group(length=2).to(Stage.UNMASKING)
    reveals = [Reveal.from_bytes(message) for message in made.answers().values()]
    for reveal in reveals:
        assert reveal.shares["kind"].tolist() == [0, 0, 0, 0]
        for row in reveal.shares:
            held = made.clients[reveal.sender]
            assert "_held" not in vars(held), "what was answered is forgotten"
            assert len(row["share"]) == 18


# --- wrap-around ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_full_population_of_extremes_does_not_wrap(bits: Bits, sign: int) -> None:
    point = FixedPoint.fit(0.5, 10, bits)
    made = Group(parameters(bits=bits, length=16, cohort=10), tuple(range(10)))
    words = np.empty(16, TYPES[bits])
    point.encode(np.full(16, sign * 1e30), 1.0, Keystream(b"k" * 32), words)
    found = play(made.server, made.clients, lambda client: words.copy())
    assert len(found.survivors) == 10
    assert point.decode(found.words_D, 10).tolist() == [sign * 5.0] * 16


def test_a_forged_vector_makes_noise_and_noise_is_refused() -> None:
    # The range check lets noise pass with the odds (share of the ring that 4 of 10,000 clients can reach)^D: below 1e-100.
    point = FixedPoint.fit(8.0, 10_000)
    made = Group(parameters(length=1000, population=10_000), zero=True).to(Stage.MASKED_INPUT)
    made.clients[2]._seed = b"another".ljust(32)
    refused(point.decode, made.end().words_D, 4, match="noise")


def test_certificates_are_the_same_at_both_ends() -> None:
    made = group(POLICIES["sparse, active"], 5).to(Stage.MASKED_INPUT)
    assert {client._certificate for client in made.clients.values()} == {made.server.certificate}
    assert certificate.certify(made.parameters.policy, 5) == made.server.certificate


@every_policy
def test_a_client_whose_numbers_are_others_takes_no_part(kind: str) -> None:
    made = group(POLICIES[kind], 5).to(Stage.SHARE_KEYS)
    made.clients[0].parameters = replace(made.parameters, policy=replace(POLICIES[kind], recovery_bits=29))
    # An active server's adverts are signed for one set of parameters; else the session differs.
    with pytest.raises(ProtocolError, match="did not sign" if made.parameters.active else "another session"):
        made.receive(made.answer(0, made.server.request(0)))
