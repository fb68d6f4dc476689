"""Floors, counts and keys that nobody may slip below or past, at both ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from secagg_cohort import COMPLETE, COMPLETE_ACTIVE, POLICIES, SPARSE_ACTIVE, Group, below, group, parameters, refused, remember
from test_secagg_attacks import clients, signed, told
from test_secagg_liars import delivery_to

from privfl.errors import ConfigError, ThresholdError
from privfl.secagg.agreement import seal
from privfl.secagg.messages import Advert, Roster
from privfl.secagg.session import Stage, roster_digest

every_policy = pytest.mark.parametrize("kind", POLICIES)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


# --- how many must be in a sum ----------------------------------------------------------------------------------------


def check_a_client_keeps_to_its_minimum() -> None:
    """Where noise is distributed a sum over fewer has too little of it; no client helps to reveal one."""
    for policy in POLICIES.values():
        made = group(policy, 5, minimum_clients=5)
        made.to(Stage.CONSISTENCY_CHECK if made.parameters.active else Stage.UNMASKING)
        four = clients(0, 1, 2, 3)
        whole = made.server.certificate is not None and made.server.certificate.whole
        below(made.answer, 0, told(made, four if whole else four[four == 0], 4), match="4 survivors: must be at least 5")


def check_ghosts_do_not_fill_up_a_sum() -> None:
    """An active server lists as survivors clients that are not there; they cannot sign, and signatures are what counts."""
    for least, policy in ((5, SPARSE_ACTIVE), (2, replace(SPARSE_ACTIVE, max_dropout=0.0))):
        made = group(policy, 5, minimum_clients=least).to(Stage.CONSISTENCY_CHECK)
        everyone = clients(*made.numbers)
        made.answer(0, told(made, everyone))
        few = signed(made, everyone, [0, 1, 2, 3])
        below(made.answer, 0, few, Stage.UNMASKING, match="4 signatures for this set of survivors: must be at least 5")


def check_the_server_waits_for_as_many_signatures() -> None:
    made = group(SPARSE_ACTIVE, 5, minimum_clients=5).to(Stage.CONSISTENCY_CHECK)
    below(made.close, made.answers([4]), match="4 clients consented: must be at least 5")


def check_no_roster_is_longer_than_the_population() -> None:
    """The encoding made room for the population: a sum over more may wrap around. No cohort is larger than that."""
    with pytest.raises(ConfigError, match="5 clients are invited: must be at most the cohort of 4"):
        group(COMPLETE, 5, cohort=4)
    with pytest.raises(ConfigError, match="a cohort of 5 of 4 clients"):
        group(COMPLETE, 5, population=4)
    # To a client, by a server that does not mind.
    other, made = group(COMPLETE, 5), group(COMPLETE, 4)
    other.close({**other.answers([0]), 0: made.answer(0, None)})
    below(made.answer, 0, other.server.request(0), Stage.SHARE_KEYS, match="a roster of 5 clients: must be at least 3 and")


def test_a_client_keeps_to_its_minimum() -> None:
    check_a_client_keeps_to_its_minimum()


def test_ghosts_do_not_fill_up_a_sum() -> None:
    check_ghosts_do_not_fill_up_a_sum()


def test_the_server_waits_for_as_many_signatures() -> None:
    check_the_server_waits_for_as_many_signatures()


def test_no_roster_is_longer_than_the_population() -> None:
    check_no_roster_is_longer_than_the_population()


@every_policy
def test_the_server_keeps_to_the_minimum(kind: str) -> None:
    made = group(POLICIES[kind], 5, minimum_clients=5)
    with pytest.raises(ThresholdError, match="4 clients sent a masked vector: must be at least 5"):
        made.end({4: Stage.MASKED_INPUT})


# --- adverts of another attempt ---------------------------------------------------------------------------------------


def check_an_advert_is_good_for_one_attempt() -> None:
    """An advert of a client that was lost in one attempt, its mask key revealed, makes no ghost in another."""
    for changes in ({"attempt": 1}, {"minimum_clients": 3}, {"context": bytes(32)}, {"run": "another"}):
        old = group(COMPLETE_ACTIVE).answers()
        made = Group(parameters(COMPLETE_ACTIVE, **changes))
        refused(made.receive, old[2], match="did not sign", stage="advertise_keys", peer="client 2")
        # To a client, by a server that does not mind.
        made.to(Stage.SHARE_KEYS)
        roster, ghost = (
            Roster.from_bytes(made.server.request(0) or b""),
            Advert.from_bytes(group(COMPLETE_ACTIVE, seed="old").answers()[2]),
        )
        members = roster.members.copy()
        members[2] = (2, ghost.channel_key, ghost.mask_key, ghost.signature)
        forged = Roster(3, 4, roster_digest(members), members).to_bytes()
        refused(made.answer, 0, forged, match="client 2 did not sign", stage="share_keys", peer="server")


def test_an_advert_is_good_for_one_attempt() -> None:
    check_an_advert_is_good_for_one_attempt()


# --- keys and holders -------------------------------------------------------------------------------------------------


def check_a_client_looks_at_every_key() -> None:
    """Two clients with one key, one key for two purposes, and bytes that are no key."""
    for key in ("channel_key of 1", "mask_key of 1", "own channel_key", "no key"):
        made = group().to(Stage.SHARE_KEYS)
        roster = Roster.from_bytes(made.server.request(0) or b"")
        members = roster.members.copy()
        members["mask_key"][2] = {
            "channel_key of 1": members["channel_key"][1],
            "mask_key of 1": members["mask_key"][1],
            "own channel_key": members["channel_key"][2],
            "no key": np.void(b"\xff" * 32),
        }[key]
        forged = Roster(3, 4, roster_digest(members), members).to_bytes()
        refused(made.answer, 0, forged, match="below 2^255" if key == "no key" else "must be two each", stage="share_keys")


def check_the_server_takes_no_key_twice() -> None:
    """A client that advertises another's key as its own: its masks would be that other's."""
    made = group(clients=5)
    answers = made.answers()
    first, copied = Advert.from_bytes(answers[1]), Advert.from_bytes(answers[2])
    made.receive(answers[1])
    for altered in (
        replace(copied, mask_key=first.mask_key),
        replace(copied, channel_key=first.channel_key),
        replace(copied, channel_key=first.mask_key),
    ):
        refused(made.receive, altered.to_bytes(), match="another client's", stage="advertise_keys", peer="client 2")
    made.receive(answers[2])


def check_holders_are_distinct_others_of_the_roster() -> None:
    """A client that lies about whom it drew: each of its holders is another client of the roster, and the receiver is one."""
    made = group(SPARSE_ACTIVE, 5).to(Stage.MASKED_INPUT)
    receiver = next(number for number in made.numbers if len(delivery_to(made, number).boxes))
    delivery = delivery_to(made, receiver)
    sender = int(delivery.boxes["client"][0])
    others = [one for one in made.numbers if one not in (receiver, sender)]
    liar = made.clients[sender]
    for holders in ([receiver, receiver], others[:2][::-1], others[:2], sorted([receiver, sender]), [receiver, 9]):
        drawn = np.array(holders, np.uint32)
        context = liar._box_context(np.sort(np.append(drawn, np.uint32(sender))))
        boxes = delivery.boxes.copy()
        boxes["holders"][0] = drawn
        boxes["box"][0] = np.void(seal(liar._channel_with(receiver), bytes(72), sender, receiver, context))
        forged = replace(delivery, boxes=boxes).to_bytes()
        match = "that are not others" if holders[0] < holders[1] else "holders of a box twice or out of order"
        refused(made.fork().answer, receiver, forged, match=match, stage="masked_input", peer="server")


def test_a_client_looks_at_every_key() -> None:
    check_a_client_looks_at_every_key()


def test_the_server_takes_no_key_twice() -> None:
    check_the_server_takes_no_key_twice()


def test_holders_are_distinct_others_of_the_roster() -> None:
    check_holders_are_distinct_others_of_the_roster()
