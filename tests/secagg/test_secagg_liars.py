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
    COMPLETE_ACTIVE,
    POLICIES,
    Group,
    group,
    parameters,
    refused,
    remember,
)
from test_secagg_attacks import clients

from privfl.secagg import field, shamir
from privfl.secagg.agreement import KeyPair
from privfl.secagg.certificate import Policy
from privfl.secagg.identity import Identity
from privfl.secagg.messages import (
    Advert,
    Delivery,
    Reveal,
    Roster,
    ShareKind,
    Shares,
)
from privfl.secagg.session import Stage, roster_digest

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
        refused(made.fork().answer, 0, forged, match="did not sign", stage="share_keys", peer="client 2")


def test_adverts_are_signed() -> None:
    check_adverts_are_signed()


def test_an_advert_of_another_round_is_not_of_this() -> None:
    other = Group(parameters(COMPLETE_ACTIVE, round=4))
    old = Advert.from_bytes(other.answer(2, None))
    made = group(COMPLETE_ACTIVE)
    refused(made.server.receive, old.to_bytes(), match="round 4", stage="advertise_keys", peer="client 2")
    refused(made.server.receive, replace(old, round=3).to_bytes(), match="did not sign", peer="client 2")


def test_a_client_that_signs_with_another_identity_is_left_out() -> None:
    made = group(COMPLETE_ACTIVE)
    made.clients[2]._identity = Identity(b"o" * 32)
    refused(made.server.receive, made.answer(2, None), match="did not sign", peer="client 2")
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
    old = Group(made.parameters, models=dict.fromkeys(made.numbers, model))
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
    made = group().to(Stage.MASKED_INPUT)
    refused(made.answer, 0, TAMPERED[how](made).to_bytes(), match="not sealed by it", stage="masked_input", peer="client 1")
    refused(made.answer, 0, made.server.request(0), match="took no further part")


@pytest.mark.parametrize("how", TAMPERED)
def test_a_box_that_was_tampered_with_is_refused(how: str) -> None:
    check_boxes_are_bound(how)


def test_the_round_goes_on_without_whoever_refused_a_box() -> None:
    made = group().to(Stage.MASKED_INPUT)
    refused(made.answer, 0, flipped(made).to_bytes())
    made.close(made.answers([0]))
    found = made.end()
    assert found.survivors == (1, 2, 3)
    assert np.array_equal(found.words_D, made.plain(found.survivors))


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


def test_a_client_that_sends_another_s_box_spoils_it_for_one_receiver_only() -> None:
    # Client 1 passes off client 2's box for client 0 as its own.
    made = group().to(Stage.SHARE_KEYS)
    answers = made.answers()
    own, other = Shares.from_bytes(answers[1]), Shares.from_bytes(answers[2])
    boxes = own.boxes.copy()
    boxes["box"][0] = other.boxes["box"][0]
    answers[1] = replace(own, boxes=boxes).to_bytes()
    made.close(answers)
    refused(made.answer, 0, made.server.request(0), match="not sealed by it", peer="client 1")
    made.close(made.answers([0]))
    found = made.end()
    assert found.survivors == (1, 2, 3)
    assert np.array_equal(found.words_D, made.plain(found.survivors))


# --- a client lies ----------------------------------------------------------------------------------------------------


def check_a_lying_share_is_noticed(kind: ShareKind) -> None:
    """A share that was changed makes another secret, and the server says whose it does not fit."""
    made = group().to(Stage.UNMASKING, {3: Stage.MASKED_INPUT} if kind is ShareKind.MASK_KEY else {})
    answers = made.answers()
    reveal = Reveal.from_bytes(answers[0])
    shares = reveal.shares.copy()
    place = int(np.flatnonzero(shares["kind"] == kind)[0])
    shares["share"][place, 1] ^= 1
    answers[0] = replace(reveal, shares=shares).to_bytes()
    refused(made.close, answers, match="somebody lied", stage="unmasking", peer=f"client {int(shares['client'][place])}")
    refused(made.server.result, match="no sum")


@pytest.mark.parametrize("kind", ShareKind)
def test_a_lying_share_is_noticed(kind: ShareKind) -> None:
    check_a_lying_share_is_noticed(kind)


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
    refused(lying.end, match="seed that its shares make does not fit its commitment", peer="client 2")


def test_another_seed_than_committed_is_noticed() -> None:
    check_another_seed_than_committed_is_noticed()


def test_a_client_that_shares_another_key_than_its_own_is_noticed_when_it_is_lost() -> None:
    made = group().to(Stage.SHARE_KEYS)
    real = made.clients[3]._mask
    made.clients[3]._mask = type("Liar", (), {"public": real.public, "private": b"l" * 32})()
    made.close(made.answers())
    refused(made.end, {3: Stage.MASKED_INPUT}, match="mask key that its shares make does not fit", peer="client 3")


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
    refused(made.server.receive, replace(reveal, shares=shares).to_bytes(), match=match, stage="unmasking", peer="client 0")
    made.close({1: answers[1], 2: answers[2], 0: answers[0]})
    assert np.array_equal(made.server.result().words_D, made.plain((0, 1, 2)))


def test_a_point_of_low_order_costs_its_sender_the_round_and_nobody_else() -> None:
    made = group(clients=5)
    answers = made.answers()
    good, low = Advert.from_bytes(answers[4]), bytes([1]) + bytes(31)
    for bad in (replace(good, channel_key=low).to_bytes(), replace(good, mask_key=low).to_bytes()):
        refused(made.server.receive, bad, match="low order", stage="advertise_keys", peer="client 4")
    made.close({number: answers[number] for number in range(4)})
    assert made.end().survivors == (0, 1, 2, 3)


# --- what is never in the server's hands ------------------------------------------------------------------------------


def test_fewer_shares_than_the_threshold_say_nothing_even_with_all_corrupt_clients() -> None:
    # Exactly uniform: for every candidate secret there is one polynomial that fits the shares at hand (t − 1 of them).
    policy = Policy(graph="complete", threshold=3)
    made = group(policy, 5).to(Stage.MASKED_INPUT)
    for client in (0, 1):
        made.answer(client, made.server.request(client))
    held = [made.clients[client]._held[4][0] for client in (0, 1)]
    shares = np.array([np.frombuffer(one, "<u2") for one in held])
    assert shamir.combine((1, 2), shares).shape == (36,)
    limbs = shamir.combine((1, 2), shares)[:18]
    assert not np.array_equal(limbs, field.limbs(made.clients[4]._seed))
