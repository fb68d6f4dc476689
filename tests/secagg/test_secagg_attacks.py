"""What a server can try that does not keep to the protocol, and what it gets for it.

Each property that protects privacy is a function of its own, so that the mutants of ``test_secagg_mutants.py`` can be held
against the very same checks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from secagg_cohort import (
    COMPLETE_ACTIVE,
    POLICIES,
    SPARSE_ACTIVE,
    Answers,
    Group,
    assert_uniform,
    below,
    group,
    identity_of,
    parameters,
    refused,
    remember,
)

from privfl.errors import ThresholdError
from privfl.secagg import session
from privfl.secagg.agreement import MASK, self_mask_key
from privfl.secagg.identity import SURVIVORS
from privfl.secagg.messages import (
    SIGNATURE,
    Consent,
    Consents,
    Delivery,
    Reveal,
    Roster,
    Shares,
    Survivors,
    survivors_statement,
)
from privfl.secagg.prg import mask
from privfl.secagg.session import Stage, roster_digest
from privfl.secagg.sharing import ShareKind

WORDS = 20_000
every_policy = pytest.mark.parametrize("kind", POLICIES)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


def table(rows: list[tuple[Any, ...]], kind: np.dtype[Any]) -> NDArray[Any]:
    made = np.empty(len(rows), kind)
    for place, row in enumerate(rows):
        made[place] = row
    return made


def clients(*numbers: int) -> NDArray[np.uint32]:
    return np.array(numbers, np.uint32)


def told(made: Group, survivors: NDArray[np.uint32], counted: int | None = None) -> bytes:
    """A set of survivors of the server's choice."""
    return Survivors(3, made.server._session, len(survivors) if counted is None else counted, survivors).to_bytes()


def signed(made: Group, survivors: NDArray[np.uint32], signers: list[int]) -> bytes:
    """True signatures of those clients for a set, as if the server had got them somehow."""
    statement = survivors_statement(made.server._session, survivors)
    rows = [(one, identity_of(one).sign(SURVIVORS, statement)) for one in signers]
    return Consents(3, made.server._session, table(rows, SIGNATURE)).to_bytes()


# --- the server asks for more than it may know ------------------------------------------------------------------------


def shares_about(reveals: list[bytes], owner: int) -> dict[int, set[int]]:
    """Which kinds of share of an owner each holder gave away."""
    found: dict[int, set[int]] = {}
    for message in reveals:
        reveal = Reveal.from_bytes(message)
        kinds = reveal.shares["kind"][reveal.shares["client"] == owner]
        found.setdefault(reveal.sender, set()).update(kinds.tolist())
    return found


def check_each_stage_is_answered_once(kind: str) -> None:
    """Whatever is asked a second time, in whatever stage, nothing more comes out."""
    made = group(POLICIES[kind])
    while (stage := made.server.stage) is not None:
        requests = {number: made.server.request(number) for number in made.server.awaited}
        answers = made.answers()
        for number, request in requests.items():
            refused(made.answer, number, request, stage, match="answered once", stage=stage, peer=f"client {number}")
        made.close(answers)


def check_a_refusal_is_final() -> None:
    """A client that refused a message sends nothing any more, not even for a good one."""
    for stage in (Stage.SHARE_KEYS, Stage.MASKED_INPUT, Stage.CONSISTENCY_CHECK, Stage.UNMASKING):
        made = group(COMPLETE_ACTIVE).to(stage)
        good = made.server.request(0)
        assert good is not None
        refused(made.answer, 0, good[:-1], stage=stage, peer="server")
        refused(made.answer, 0, good, match="took no further part")


def check_a_peer_gives_one_kind_of_share() -> None:
    """Against a semi-honest server: after one set of survivors a client answers about no other."""
    made = group().to(Stage.UNMASKING)
    reveals = [made.answer(0, told(made, clients(0, 1, 2)))]
    refused(made.answer, 0, told(made, clients(0, 1, 2, 3)), match="answered once")
    assert shares_about(reveals, 3) == {0: {ShareKind.MASK_KEY}}
    assert shares_about(reveals, 1) == {0: {ShareKind.SEED}}


def check_survivors_give_seeds_and_lost_clients_keys() -> None:
    """The server never gets shares of both secrets of one client."""
    for kind, policy in POLICIES.items():
        made = group(policy, 5, seed=kind)
        reveals: list[bytes] = []
        lost = {1: Stage.MASKED_INPUT}
        while made.server.stage is not None:
            answers = made.answers([1] if made.server.stage is Stage.MASKED_INPUT else [])
            if made.server.stage is Stage.UNMASKING:
                reveals = list(answers.values())
            try:
                made.close(answers)
            except ThresholdError:
                break
        for owner in range(5):
            kinds = set().union(*shares_about(reveals, owner).values()) if reveals else set()
            assert kinds <= {ShareKind.MASK_KEY if owner in lost else ShareKind.SEED}, f"{kind}: {owner} gave {kinds}"
        assert len(reveals) >= made.parameters.policy.neighbours if made.parameters.policy.neighbours else reveals


def check_contradicting_survivors_cannot_both_be_signed() -> None:
    """An active server tells half of the clients one thing and half another: neither half reveals anything."""
    made = group(COMPLETE_ACTIVE, 5).to(Stage.CONSISTENCY_CHECK)
    one, other = clients(0, 1, 2, 3), clients(0, 2, 3, 4)
    consents: Answers = {number: made.answer(number, told(made, one)) for number in (0, 1)}
    consents |= {number: made.answer(number, told(made, other)) for number in (2, 3, 4)}
    session = made.server._session
    rows = [(number, Consent.from_bytes(message).signature) for number, message in consents.items()]
    every = Consents(3, session, table(rows[:4], SIGNATURE)).to_bytes()
    refused(made.answer, 0, every, Stage.UNMASKING, match="client 2 did not sign", peer="server")
    few = Consents(3, session, table(rows[:2], SIGNATURE)).to_bytes()
    below(made.answer, 1, few, Stage.UNMASKING, match="2 signatures for this set of survivors: must be at least 4")


def check_signatures_of_another_set_do_not_pass() -> None:
    """All signed that 4 survived; client 0 was told that 3 did."""
    made = group(COMPLETE_ACTIVE).to(Stage.CONSISTENCY_CHECK)
    made.answer(0, told(made, clients(0, 1, 2)))
    refused(made.answer, 0, signed(made, clients(0, 1, 2, 3), [1, 2, 3]), Stage.UNMASKING, match="did not survive")
    made = group(COMPLETE_ACTIVE).to(Stage.CONSISTENCY_CHECK)
    made.answer(0, told(made, clients(0, 1, 2)))
    refused(made.answer, 0, signed(made, clients(0, 1, 2, 3), [0, 1, 2]), Stage.UNMASKING, match="did not sign")


def check_survivors_below_the_floor_are_refused() -> None:
    for kind, policy in POLICIES.items():
        made = group(policy).to(Stage.CONSISTENCY_CHECK if policy.adversary == "active" else Stage.UNMASKING)
        assert made.server.certificate is not None
        few = clients(*range(made.server.certificate.survivors - 1))
        whole = made.server.certificate.whole
        below(made.answer, 0, told(made, few if whole else few[few == 0], len(few)), match="survivors: must be at least")
        assert kind


@every_policy
def test_each_stage_is_answered_once(kind: str) -> None:
    check_each_stage_is_answered_once(kind)


def test_a_refusal_is_final() -> None:
    check_a_refusal_is_final()


def test_a_peer_gives_one_kind_of_share() -> None:
    check_a_peer_gives_one_kind_of_share()


def test_survivors_give_seeds_and_lost_clients_keys() -> None:
    check_survivors_give_seeds_and_lost_clients_keys()


def test_contradicting_survivors_cannot_both_be_signed() -> None:
    check_contradicting_survivors_cannot_both_be_signed()


def test_signatures_of_another_set_do_not_pass() -> None:
    check_signatures_of_another_set_do_not_pass()


def test_survivors_below_the_floor_are_refused() -> None:
    check_survivors_below_the_floor_are_refused()


@every_policy
def test_an_empty_set_of_survivors_is_refused(kind: str) -> None:
    made = group(POLICIES[kind])
    made.to(Stage.CONSISTENCY_CHECK if made.parameters.active else Stage.UNMASKING)
    for counted in (0, 4):
        refused(made.answer, 0, told(made, clients(), counted), match="without this client")
        made.clients[0] = made.clients[1]


def test_a_set_of_survivors_that_was_altered_is_refused() -> None:
    for altered, counted, match in (
        (clients(1, 2, 3), 3, "without this client"),
        (clients(0, 1, 2, 9), 4, "not of the roster"),
        (clients(0, 1, 2), 4, "are counted"),
        (clients(0, 1, 2, 3), 3, "are counted"),
    ):
        made = group(COMPLETE_ACTIVE).to(Stage.CONSISTENCY_CHECK)
        refused(made.answer, 0, told(made, altered, counted), match=match, stage="consistency_check", peer="server")
    made = group(COMPLETE_ACTIVE, 5).to(Stage.CONSISTENCY_CHECK, {4: Stage.SHARE_KEYS})
    refused(made.answer, 0, told(made, clients(0, 1, 2, 4)), match="did not share its keys")


def check_a_quorum_must_sign() -> None:
    made = group(COMPLETE_ACTIVE).to(Stage.UNMASKING)
    everyone = clients(0, 1, 2, 3)
    below(made.answer, 0, signed(made, everyone, [1, 2]), match="2 signatures for this set of survivors: must be at least 3")


def check_a_forged_signature_is_refused() -> None:
    made = group(COMPLETE_ACTIVE).to(Stage.UNMASKING)
    consents = Consents.from_bytes(made.server._consents)
    rows = consents.signatures.copy()
    rows["signature"][2] = rows["signature"][1]
    forged = replace(consents, signatures=rows).to_bytes()
    refused(made.answer, 0, forged, match="client 2 did not sign", peer="server")


def test_a_quorum_must_sign() -> None:
    check_a_quorum_must_sign()


def test_a_forged_signature_is_refused() -> None:
    check_a_forged_signature_is_refused()


def test_a_signature_of_a_stranger_is_refused() -> None:
    made = group(COMPLETE_ACTIVE).to(Stage.UNMASKING)
    refused(made.answer, 0, signed(made, clients(0, 1, 2, 3), [0, 1, 2, 9]), match="did not survive")


def test_nobody_consents_where_nothing_is_signed() -> None:
    made = group().to(Stage.UNMASKING)
    refused(made.answer, 0, made.server.request(0), Stage.CONSISTENCY_CHECK, match="active server only")


# --- the server shows different things to different clients -----------------------------------------------------------


def sum_of_a_liar(made: Group, requests: dict[int, bytes] | None = None, among: list[int] | None = None) -> NDArray[Any]:
    """The sum that a server gets that ignores every difference between sessions and takes off all self masks.

    It is given all seeds, more than any run of the protocol reveals; what is left are the masks between clients.
    """
    total = np.zeros(made.parameters.length, np.uint32)
    for number in among or made.numbers:
        message = made.answer(number, (requests or {}).get(number) or made.server.request(number), Stage.MASKED_INPUT)
        words, one = made.words(message).copy(), made.clients[number]
        mask(words, [], [self_mask_key(one._seed, one._masking)])
        total += words
    return total


def share_with(made: Group, requests: dict[int, bytes]) -> None:
    """Everyone shares its keys on the roster that it was sent; the server calls all sessions by one name."""
    for number, request in requests.items():
        shares = Shares.from_bytes(made.answer(number, request))
        made.server._take_shares(replace(shares, session=made.server._session))
    made.server.close()


def deliveries(made: Group) -> dict[int, bytes]:
    """What each client is sent, under the session that it believes in."""
    found = {}
    for number, one in made.clients.items():
        request = made.server.request(number)
        assert request is not None
        found[number] = replace(Delivery.from_bytes(request), session=one._session).to_bytes()
    return found


def check_a_split_view_of_the_model_is_noise() -> None:
    """Clients that were sent different models cannot open each other's boxes.

    Two of four models: each client opens one box of three, and goes no further. One of four: that client opens none; to the
    others it may be a corrupt client that sends garbage, and their vectors are noise.
    """
    honest, other = np.zeros(3, np.float32), np.ones(3, np.float32)
    for models in ({0: honest, 1: honest, 2: other, 3: other}, {0: honest, 1: honest, 2: honest, 3: other}):
        made = Group(parameters(length=WORDS), models=models, zero=True).to(Stage.SHARE_KEYS)
        share_with(made, {number: made.server.request(number) or b"" for number in made.numbers})
        requests = deliveries(made)
        alone = [number for number in made.numbers if sum(models[number] is one for one in models.values()) < 3]
        for number in alone:
            refused(
                made.answer, number, requests[number], Stage.MASKED_INPUT, match="global model probably differ", peer="server"
            )
        together = [number for number in made.numbers if number not in alone]
        if together:
            assert_uniform(sum_of_a_liar(made, requests, together))


def check_models_are_bound_into_masks() -> None:
    """The mask between two clients differs as soon as their models do."""
    keys = []
    for model in (0.0, 1.0):
        made = Group(parameters(length=50), models={0: np.full(3, model, np.float32), 1: np.full(3, model, np.float32)})
        made.to(Stage.SHARE_KEYS)
        made.answer(0, made.server.request(0))
        one = made.clients[0]
        keys.append(one._mask.shared_key(made.clients[1]._mask.public, one._session, MASK))
    assert keys[0] != keys[1]


def check_whatever_clients_are_told_is_bound_into_the_parameters() -> None:
    """A norm, or a control variate, that differs between clients, or that only some are sent, makes another context."""
    told: list[dict[str, NDArray[Any]]] = [
        *({}, {"norm": np.array(1.0)}, {"norm": np.array(1.0 + 1e-15)}),
        *({"a": np.array([1.0, 2.0]), "b": np.array([3.0])}, {"a": np.array([1.0]), "b": np.array([2.0, 3.0])}),
        *({"a": np.array([1.0, 2.0])}, {"ab": np.array([1.0, 2.0])}),
    ]
    found = [session.round_context(bytes(32), bytes(32), one) for one in told]
    assert len(set(found)) == len(told)
    assert found[3] == session.round_context(bytes(32), bytes(32), dict(reversed(told[3].items())))


def whole_of(made: Group, client: int) -> bytes:
    """What the server would honestly send to a client."""
    request = made.server.request(client)
    assert request is not None
    return request


def check_sharers_are_bound_into_masks() -> None:
    """An active server tells two clients different things about who shared their keys: their masks do not cancel."""
    for policy in (COMPLETE_ACTIVE,):
        made = Group(parameters(policy, length=WORDS, cohort=5), (0, 1, 2, 3, 4), zero=True).to(Stage.MASKED_INPUT)
        whole = made.server.request(0)
        assert whole is not None
        delivery = Delivery.from_bytes(whole)
        fewer = replace(delivery, sharers=clients(0, 1, 2, 3), boxes=delivery.boxes[delivery.boxes["client"] != 4]).to_bytes()
        assert not sum_of_a_liar(made.fork()).any(), "the same story for all: nothing is left"
        assert_uniform(sum_of_a_liar(made.fork(), {0: fewer}))
        # Even with a peer of whom both were told the mask is another one.
        made.answer(0, fewer, Stage.MASKED_INPUT)
        made.answer(1, whole_of(made, 1), Stage.MASKED_INPUT)
        assert made.clients[0]._mask_with(1) != made.clients[1]._mask_with(0)


def test_a_split_view_of_the_model_is_noise() -> None:
    check_a_split_view_of_the_model_is_noise()


def test_models_are_bound_into_masks() -> None:
    check_models_are_bound_into_masks()


def test_whatever_clients_are_told_is_bound_into_the_parameters() -> None:
    check_whatever_clients_are_told_is_bound_into_the_parameters()


def test_clients_that_were_told_different_things_do_not_take_part_together() -> None:
    """Against an active server an advert is signed for the parameters; a client refuses a roster with another's."""
    context = session.round_context(bytes(32), bytes(32), {"norm": np.array(0.0)})
    made, other = Group(parameters(COMPLETE_ACTIVE)), Group(parameters(COMPLETE_ACTIVE, context=context))
    refused(made.receive, other.answer(3, None), match="did not sign this", peer="client 3")


def test_sharers_are_bound_into_masks() -> None:
    check_sharers_are_bound_into_masks()


def test_an_honest_server_notices_another_model_at_once() -> None:
    made = Group(parameters(), models={3: np.ones(3, np.float32)}).to(Stage.SHARE_KEYS)
    refused(made.receive, made.answer(3, made.server.request(3)), match="global model differ", peer="client 3")
    made.receive(made.answer(0, made.server.request(0)))


@pytest.mark.parametrize("change", ["two keys swapped", "a client left out"])
def test_clients_with_different_rosters_do_not_open_each_other_s_boxes(change: str) -> None:
    made = group().to(Stage.SHARE_KEYS)
    request = made.server.request(0)
    assert request is not None
    roster = Roster.from_bytes(request)
    members = roster.members.copy()
    if change == "two keys swapped":
        members["mask_key"][[1, 2]] = members["mask_key"][[2, 1]]
    else:
        members = members[members["client"] != 1]
    other = Roster(3, len(members), roster_digest(members), members).to_bytes()
    if change == "a client left out":
        made.answer(3, other)
        return
    share_with(made, {number: other if number == 3 else request for number in made.numbers})
    refused(made.answer, 3, deliveries(made)[3], Stage.MASKED_INPUT, match="roster, parameters or global model probably differ")


def test_a_roster_must_be_that_of_its_digest() -> None:
    made = group().to(Stage.SHARE_KEYS)
    roster = Roster.from_bytes(made.server.request(0) or b"")
    refused(made.answer, 0, replace(roster, digest=bytes(32)).to_bytes(), match="digest of another", stage="share_keys")


# --- the server picks who masks with whom -----------------------------------------------------------------------------


def isolating(made: Group, target: int) -> NDArray[np.uint32]:
    """Survivors without those that the target drew: a set in which it is masked by itself alone, if anybody answered."""
    drawn = set(made.clients[target]._holders.tolist()) - {target}
    return clients(*(one for one in made.numbers if one not in drawn))


def check_a_client_that_is_cut_off_is_not_answered_for() -> None:
    """An active server says that all whom a client drew are lost: nobody gives a share of that client's seed."""
    policy = replace(SPARSE_ACTIVE, max_dropout=0.45)
    made = group(policy, 7, seed="isolate").to(Stage.CONSISTENCY_CHECK)
    survivors = isolating(made, 0)
    told_ = told(made, survivors)
    for number in survivors.tolist():
        made.answer(number, told_)
    consents = signed(made, survivors, survivors.tolist())
    reveals = [made.answer(number, consents, Stage.UNMASKING) for number in survivors.tolist()]
    assert 0 not in set().union(*(set(Reveal.from_bytes(one).shares["client"].tolist()) for one in reveals))


def check_a_ghost_is_no_company() -> None:
    """A server plays the adverts of clients that are not there, whose mask keys it knows from a round in which they were lost.

    Listed as survivors they would hide nobody: what a client masks with them, the server can take off. They cannot sign.
    """
    policy = replace(SPARSE_ACTIVE, max_dropout=0.45)
    old = group(policy, 7, seed="old")
    old.close(old.answers())
    target = 0
    made = group(policy, 7, seed="isolate")
    trial = group(policy, 7, seed="isolate").to(Stage.MASKED_INPUT)
    ghosts = sorted(set(trial.clients[target]._holders.tolist()) - {target})
    assert len(ghosts) == 2
    answers = made.answers()
    made.close({number: old.server._adverts[number].to_bytes() if number in ghosts else answers[number] for number in answers})
    session = made.server._session
    shares = {number: made.answer(number, made.server.request(number)) for number in made.numbers if number not in ghosts}
    read = {number: Shares.from_bytes(message) for number, message in shares.items()}
    # The draw comes from the client's entropy, so that the target drew the same two again.
    assert set(read[target].boxes["client"].tolist()) == set(ghosts)
    for number in ghosts:
        others = [one for one in made.numbers if one not in (number, target)][:2]
        boxes = read[target].boxes.copy()
        boxes["client"] = others
        read[number] = replace(read[target], sender=number, boxes=boxes)
    for one in read.values():
        made.server._take_shares(one)
    made.server.close()
    living = [number for number in made.numbers if number not in ghosts]
    for number in living:
        request = Delivery.from_bytes(made.server.request(number) or b"")
        # The server cannot seal a box of a ghost's, so it delivers none.
        boxes = request.boxes[~np.isin(request.boxes["client"], ghosts)]
        made.answer(number, replace(request, boxes=boxes).to_bytes(), Stage.MASKED_INPUT)
    survivors = clients(*made.numbers)
    statement = Survivors(3, session, 7, survivors).to_bytes()
    for number in living:
        made.answer(number, statement, Stage.CONSISTENCY_CHECK)
    consents = signed(made, survivors, living)
    reveals = [Reveal.from_bytes(made.answer(number, consents, Stage.UNMASKING)) for number in living]
    given = [number for number, one in zip(living, reveals, strict=True) if target in one.shares["client"]]
    assert given == [], f"clients {given} gave shares of the seed of a client that only ghosts keep company"


def check_holders_cannot_be_chosen_by_the_server() -> None:
    """The holders that a client drew are bound into its boxes."""
    made = group(SPARSE_ACTIVE, 5).to(Stage.MASKED_INPUT)
    for number in made.numbers:
        delivery = Delivery.from_bytes(made.server.request(number) or b"")
        for row in range(len(delivery.boxes)):
            boxes = delivery.boxes.copy()
            sender, drawn = int(boxes["client"][row]), boxes["holders"][row]
            other = next(one for one in made.numbers if one not in drawn and one not in (sender, number))
            boxes["holders"][row] = sorted({number, other})
            trial = made.fork()
            forged = replace(delivery, boxes=boxes).to_bytes()
            refused(trial.answer, number, forged, match=f"client {sender}: its box of shares was not sealed", peer="server")


def test_a_client_that_is_cut_off_is_not_answered_for() -> None:
    check_a_client_that_is_cut_off_is_not_answered_for()


def test_a_ghost_is_no_company() -> None:
    check_a_ghost_is_no_company()


def test_holders_cannot_be_chosen_by_the_server() -> None:
    check_holders_cannot_be_chosen_by_the_server()
