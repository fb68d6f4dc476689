"""What a client, or whoever carries its messages, can try that does not keep to the protocol, and what it gets for it.

Each property that protects privacy is a function of its own, so that the mutants of ``test_secagg_mutants.py`` can be held
against the very same checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from secagg_cohort import (
    COMPLETE,
    COMPLETE_ACTIVE,
    POLICIES,
    Group,
    below,
    group,
    parameters,
    refused,
    remember,
)
from test_secagg_attacks import clients

from privfl.secagg import field, shamir
from privfl.secagg.agreement import KeyPair, seal
from privfl.secagg.identity import Identity
from privfl.secagg.messages import (
    Advert,
    Delivery,
    Reveal,
    Roster,
    Shares,
)
from privfl.secagg.session import Stage, roster_digest
from privfl.secagg.sharing import ShareKind, tags

every_policy = pytest.mark.parametrize("kind", POLICIES)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


# --- adverts ----------------------------------------------------------------------------------------------------------


def check_adverts_are_signed() -> None:
    """A server that puts a key of its own in a client's place is noticed by every other client."""
    made = group(COMPLETE_ACTIVE).to(Stage.SHARE_KEYS)
    roster = Roster.from_bytes(made.server.request(0) or b"")
    for name in ("channel_key", "mask_key"):
        members = roster.members.copy()
        members[name][2] = np.void(KeyPair(b"m" * 32).public)
        forged = Roster(3, 4, roster_digest(members), members).to_bytes()
        refused(made.fork().answer, 0, forged, match="client 2 did not sign", stage="share_keys", peer="server")


def test_adverts_are_signed() -> None:
    check_adverts_are_signed()


def test_an_advert_of_another_round_is_not_of_this() -> None:
    other = Group(parameters(COMPLETE_ACTIVE, round=4))
    old = Advert.from_bytes(other.answer(2, None))
    made = group(COMPLETE_ACTIVE)
    refused(made.receive, old.to_bytes(), match="round 4", stage="advertise_keys", peer="client 2")
    refused(made.receive, replace(old, round=3).to_bytes(), match="did not sign", peer="client 2")


def test_a_client_that_signs_with_another_identity_is_left_out() -> None:
    made = group(COMPLETE_ACTIVE)
    made.clients[2]._identity = Identity(b"o" * 32)
    refused(made.receive, made.answer(2, None), match="did not sign", peer="client 2")
    made.clients[2]._stage = None
    made.close({number: made.answer(number, None) for number in (0, 1, 3)})
    assert made.end().survivors == (0, 1, 3)


# --- boxes ------------------------------------------------------------------------------------------------------------


def delivery_to(made: Group, client: int) -> Delivery:
    return Delivery.from_bytes(made.server.request(client) or b"")


def swapped(made: Group) -> Delivery:
    delivery = delivery_to(made, 0)
    boxes = delivery.boxes.copy()
    boxes["box"][[0, 1]] = boxes["box"][[1, 0]]
    return replace(delivery, boxes=boxes)


def flipped(made: Group) -> Delivery:
    delivery = delivery_to(made, 0)
    boxes = delivery.boxes.copy()
    box = bytearray(boxes["box"][0].tobytes())
    box[5] ^= 1
    boxes["box"][0] = np.void(bytes(box))
    return replace(delivery, boxes=boxes)


def mirrored(made: Group) -> Delivery:
    """A client's own box comes back to it in the other's place: the two directions share a key."""
    delivery, other = delivery_to(made, 0), delivery_to(made, 1)
    boxes = delivery.boxes.copy()
    boxes["box"][0] = other.boxes["box"][0]
    return replace(delivery, boxes=boxes)


def replayed(made: Group) -> Delivery:
    """The same clients with the same keys in an older session: only the round's model was another."""
    model = np.ones(3, np.float32)
    old = Group(made.parameters, made.numbers, models=dict.fromkeys(made.numbers, model))
    old.server._global_D = model
    old.to(Stage.MASKED_INPUT)
    return replace(delivery_to(old, 0), session=made.server._session)


TAMPERED: dict[str, Callable[[Group], Delivery]] = {
    "swapped": swapped,
    "flipped": flipped,
    "mirrored": mirrored,
    "replayed": replayed,
}


def check_boxes_are_bound(how: str) -> None:
    """What does not open, or was dealt to somebody else, is not taken for the sender's share."""
    made = group(clients=5).to(Stage.MASKED_INPUT)
    honest, held = made.fork(), made.fork()
    honest.answer(0, made.server.request(0))
    forged = TAMPERED[how](made)
    altered = {int(one) for one in forged.boxes["client"][forged.boxes["box"] != delivery_to(made, 0).boxes["box"]]}
    if len(altered) > 1:
        refused(held.answer, 0, forged.to_bytes(), match="not sealed by it", stage="masked_input", peer="server")
        refused(held.answer, 0, made.server.request(0), match="took no further part")
        return
    held.answer(0, forged.to_bytes())
    assert altered == honest.clients[0]._held.keys() - held.clients[0]._held.keys()


@pytest.mark.parametrize("how", TAMPERED)
def test_a_box_that_was_tampered_with_is_not_taken(how: str) -> None:
    check_boxes_are_bound(how)


def test_boxes_of_others_than_the_sharers_are_refused() -> None:
    made = group().to(Stage.MASKED_INPUT)
    delivery = delivery_to(made, 0)
    for altered in (
        replace(delivery, boxes=delivery.boxes[1:]),
        replace(delivery, sharers=delivery.sharers[1:]),
        replace(delivery, sharers=clients(0, 1, 2, 3)),
        replace(delivery, sharers=clients(1, 2, 3, 9)),
    ):
        refused(made.fork().answer, 0, altered.to_bytes(), match="discard the round", stage="masked_input")


def check_garbage_boxes_evict_nobody() -> None:
    """A client sends one that cannot be opened, or another's, or shares that are not those of its tags: all others go on."""
    for change in ("garbage", "another's", "not canonical", "not the tagged"):
        made = group(clients=6).to(Stage.SHARE_KEYS)
        answers = made.answers()
        own, other = Shares.from_bytes(answers[1]), Shares.from_bytes(answers[2])
        boxes = own.boxes.copy()
        if change in ("garbage", "another's"):
            boxes["box"][0] = np.void(bytes(88)) if change == "garbage" else other.boxes["box"][0]
        else:
            liar, share = made.clients[1], np.zeros(36, "<u2")
            share[7] = field.PRIME if change == "not canonical" else 1
            boxes["box"][0] = np.void(seal(liar._channel_with(0), share.tobytes(), 1, 0, liar._box_context(liar._holders)))
            if change == "not canonical":
                boxes["tags"][0] = np.void(tags(liar._session, 1, 0, share.tobytes()))
        answers[1] = replace(own, boxes=boxes).to_bytes()
        made.close(answers)
        found = made.end()
        assert found.survivors == made.numbers, f"{change}: somebody was evicted"
        assert np.array_equal(found.words_D, made.plain(found.survivors))
        assert made.server.liars == {}


def test_garbage_boxes_evict_nobody() -> None:
    check_garbage_boxes_evict_nobody()


# --- a client lies ----------------------------------------------------------------------------------------------------


def lying(made: Group, liar: int, kind: ShareKind, value: int = 1) -> bytes:
    """An answer with one share of that kind changed."""
    reveal = Reveal.from_bytes(made.answer(liar, made.server.request(liar)))
    shares = reveal.shares.copy()
    place = int(np.flatnonzero((shares["kind"] == kind) & (shares["client"] != liar))[0])
    shares["share"][place, 1] = (shares["share"][place, 1] + value) % field.PRIME
    return replace(reveal, shares=shares).to_bytes()


def check_wrong_shares_cost_their_holders_alone(kind: ShareKind) -> None:
    """Two of nine reveal wrong shares of somebody: the others' are enough, and the two are named."""
    made = group(clients=9).to(Stage.UNMASKING, {8: Stage.MASKED_INPUT} if kind is ShareKind.MASK_KEY else {})
    answers = made.answers([0, 1]) | {liar: lying(made, liar, kind) for liar in (0, 1)}
    made.close(answers)
    found = made.server.result()
    assert np.array_equal(found.words_D, made.plain(found.survivors))
    assert {one: error.peer for one, error in made.server.liars.items()} == {0: "client 0", 1: "client 1"}


def check_a_wrong_secret_is_never_used(kind: ShareKind) -> None:
    """Too few true shares are left: no sum, and the error names who revealed a wrong one."""
    made = group().to(Stage.UNMASKING, {3: Stage.MASKED_INPUT} if kind is ShareKind.MASK_KEY else {})
    answers = {liar: lying(made, liar, kind) for liar in sorted(made.server.awaited)}
    below(made.close, answers, match="revealed a wrong one")
    refused(made.server.result, match="no sum")


@pytest.mark.parametrize("kind", ShareKind)
def test_wrong_shares_cost_their_holders_alone(kind: ShareKind) -> None:
    check_wrong_shares_cost_their_holders_alone(kind)


@pytest.mark.parametrize("kind", ShareKind)
def test_a_wrong_secret_is_never_used(kind: ShareKind) -> None:
    check_a_wrong_secret_is_never_used(kind)


def test_a_share_that_is_no_element_of_the_field_is_refused() -> None:
    """32,771 more is the same element, and must not be the same share."""
    made = group().to(Stage.UNMASKING)
    reveal = Reveal.from_bytes(made.answer(0, made.server.request(0)))
    shares = reveal.shares.copy()
    shares["share"][1, 4] = field.PRIME
    forged = replace(reveal, shares=shares).to_bytes()
    refused(made.receive, forged, match="not below 32771", stage="unmasking", peer="client 0")


def check_another_seed_than_committed_is_noticed() -> None:
    """A client shares one seed and masks with another."""
    made = group().to(Stage.MASKED_INPUT)
    made.clients[2]._seed = b"another".ljust(32)
    made.close(made.answers())
    # Its shares do make the committed seed; its mask stays in the sum, which the range check of the encoding catches.
    assert not np.array_equal(made.end().words_D, made.plain(made.numbers))
    lying = group().to(Stage.SHARE_KEYS)
    answers = lying.answers()
    answers[2] = replace(Shares.from_bytes(answers[2]), commitment=bytes(32)).to_bytes()
    lying.close(answers)
    refused(lying.end, match="do not make its secret", stage="unmasking", peer="client 2")


def test_another_seed_than_committed_is_noticed() -> None:
    check_another_seed_than_committed_is_noticed()


def test_a_client_that_shares_another_key_than_its_own_is_noticed_when_it_is_lost() -> None:
    made = group().to(Stage.SHARE_KEYS)
    real = made.clients[3]._mask
    made.clients[3]._mask = type("Liar", (), {"public": real.public, "private": b"l" * 32})()
    made.close(made.answers())
    refused(made.end, {3: Stage.MASKED_INPUT}, match="do not make its secret", stage="unmasking", peer="client 3")


@pytest.mark.parametrize("change", ["wrong kind", "never sent"])
def test_a_reveal_that_was_not_asked_for_is_refused_and_the_round_goes_on(change: str) -> None:
    made = group().to(Stage.UNMASKING, {3: Stage.MASKED_INPUT})
    answers = made.answers()
    reveal = Reveal.from_bytes(answers[0])
    shares = reveal.shares.copy()
    if change == "wrong kind":
        shares["kind"] = 1 - shares["kind"]
    else:
        shares["client"][-1] = 9
    match = {"wrong kind": "wrong kind", "never sent": "never sent"}[change]
    refused(made.receive, replace(reveal, shares=shares).to_bytes(), match=match, stage="unmasking", peer="client 0")
    made.close({1: answers[1], 2: answers[2], 0: answers[0]})
    assert np.array_equal(made.server.result().words_D, made.plain((0, 1, 2)))


def test_a_point_of_low_order_costs_its_sender_the_round_and_nobody_else() -> None:
    made = group(clients=5)
    answers = made.answers()
    good, low = Advert.from_bytes(answers[4]), bytes([1]) + bytes(31)
    for bad in (replace(good, channel_key=low).to_bytes(), replace(good, mask_key=low).to_bytes()):
        refused(made.receive, bad, match="low order", stage="advertise_keys", peer="client 4")
    made.close({number: answers[number] for number in range(4)})
    assert made.end().survivors == (0, 1, 2, 3)


# --- what is never in the server's hands ------------------------------------------------------------------------------


def test_fewer_shares_than_the_threshold_say_nothing_even_with_all_corrupt_clients() -> None:
    # Exactly uniform: for every candidate secret there is one polynomial that fits the shares at hand (t − 1 of them).
    policy = replace(COMPLETE, threshold=3)
    made = group(policy, 5).to(Stage.MASKED_INPUT)
    for client in (0, 1):
        made.answer(client, made.server.request(client))
    held = [made.clients[client]._held[4][0] for client in (0, 1)]
    shares = np.array([np.frombuffer(one, "<u2") for one in held])
    assert shamir.combine((1, 2), shares).shape == (36,)
    limbs = shamir.combine((1, 2), shares)[:18]
    assert not np.array_equal(limbs, field.limbs(made.clients[4]._seed))
