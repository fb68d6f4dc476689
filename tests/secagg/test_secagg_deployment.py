"""What a deployment meets first: cohorts that a server cuts up, attempts that it repeats, restarts, and who sent what.

Each property that protects privacy is a function of its own, so that the mutants of ``test_secagg_mutants.py`` can be held
against the very same checks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from secagg_cohort import COMPLETE, COMPLETE_ACTIVE, Group, below, group, parameters, refused, remember
from test_secagg_attacks import clients, signed, told

from privfl.errors import ProtocolError, StorageError, ThresholdError
from privfl.secagg.agreement import KeyPair
from privfl.secagg.certificate import Policy, certify
from privfl.secagg.memory import Memory, Progress, StoredMemory
from privfl.secagg.messages import SIGNED_MEMBER, Advert, Refusal, Reveal, Roster, Survivors
from privfl.secagg.session import Parameters, Stage, roster_digest
from privfl.secagg.sharing import ShareKind
from privfl.secagg.simulation import Meter, play


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


# --- a server cuts a cohort up ----------------------------------------------------------------------------------------


def roster_of(made: Group, numbers: tuple[int, ...]) -> bytes:
    """What a server says that has some of the adverts and keeps to no floor."""
    members = np.empty(len(numbers), SIGNED_MEMBER)
    for place, number in enumerate(numbers):
        advert = Advert.from_bytes(made.answer(number, None))
        members[place] = (number, advert.channel_key, advert.mask_key, advert.signature)
    return Roster(3, len(numbers), roster_digest(members), members).to_bytes()


def check_a_cohort_is_not_cut_into_pairs() -> None:
    """A hundred clients in fifty rosters of two would give fifty sums of two."""
    made = Group(parameters(COMPLETE_ACTIVE, population=100, cohort=100), (0, 1))
    roster = roster_of(made, (0, 1))
    below(
        made.answer,
        0,
        roster,
        Stage.SHARE_KEYS,
        match="a roster of 2 clients: must be at least 67 and at most the",
    )


def check_nobody_is_left_to_begin_again_with() -> None:
    """The server has a sum signed by as few as it can, and begins again with those that it did not ask."""
    memories = {number: Memory() for number in range(10)}
    first, second = (
        Group(
            parameters(COMPLETE_ACTIVE, cohort=10, attempt=attempt), tuple(range(10)), f"attempt {attempt}", memories=memories
        )
        for attempt in range(2)
    )
    quorum = certify(COMPLETE_ACTIVE, 10).quorum
    first.to(Stage.CONSISTENCY_CHECK)
    for _ in range(2):
        first.close({number: first.answer(number, first.server.request(number)) for number in range(quorum)})
    assert first.server.result().survivors == first.numbers
    left = tuple(range(quorum, 10))
    for number in range(quorum):
        refused(second.answer, number, None, match="helped to release a sum of round 3")
    roster = roster_of(second, left)
    below(second.answer, left[0], roster, Stage.SHARE_KEYS, match=f"a roster of {len(left)} clients: must be at least 7")


def check_two_rosters_of_one_cohort_share_an_honest_signer() -> None:
    """Whatever rosters a server makes of a cohort, the signers of two sums have more in common than all corrupt clients."""
    for policy in (Policy(), Policy(max_corrupt=0.3, max_dropout=0.2), Policy(roster_share=0.9)):
        for cohort in (*range(3, 40), 100, 500):
            for clients_ in {policy.least_roster(cohort), (policy.least_roster(cohort) + cohort) // 2, cohort}:
                try:
                    found = certify(policy, clients_, 3, cohort)
                except ThresholdError:
                    continue
                assert 2 * found.quorum > cohort + policy.corrupt(cohort), (policy, cohort, clients_)


def check_one_of_nine_may_be_corrupt() -> None:
    """A tenth of nine is less than one client. It is one all the same: it signs that client 0 survived, and that it did not."""
    made = group(COMPLETE_ACTIVE, 9).to(Stage.CONSISTENCY_CHECK)
    everyone, others = clients(*range(9)), clients(*range(1, 9))
    for number, said in [(number, everyone if number < 4 else others) for number in range(8)]:
        made.answer(number, told(made, said))
    below(made.answer, 1, signed(made, everyone, [0, 1, 2, 3, 8]), Stage.UNMASKING, match="5 signatures")
    below(made.answer, 4, signed(made, others, [4, 5, 6, 7, 8]), Stage.UNMASKING, match="5 signatures")


def check_one_lie_gives_no_two_secrets() -> None:
    """Semi-honest, sparse: to one half of its neighbours the server says that a client is lost, to the other that it is not."""
    made = group(Policy(graph="sparse", adversary="semi_honest"), 20, population=20).to(Stage.UNMASKING)
    assert made.server.certificate is not None
    near, threshold = made.server._neighbours[0].tolist(), made.server.certificate.threshold
    kinds = []
    for place, holder in enumerate([0, *near]):
        message = Survivors.from_bytes(made.server.request(holder) or b"")
        listed = message.clients if place <= len(near) // 2 else message.clients[message.clients != 0]
        reveal = Reveal.from_bytes(made.answer(holder, told(made, listed, message.survivors)))
        kinds.append(int(reveal.shares["kind"][reveal.shares["client"] == 0][0]))
    assert min(kinds.count(kind) for kind in ShareKind) < threshold, "shares enough of both secrets of client 0"


def check_a_roster_is_counted_before_numbers_are_searched_for() -> None:
    """A search takes up to seconds; a server that claims any number of clients costs a client none."""
    made = group(COMPLETE_ACTIVE).to(Stage.SHARE_KEYS)
    request = Roster.from_bytes(made.server.request(0) or b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parameters, "certificate", lambda *_: pytest.fail("numbers were searched for"))
        short = Roster(3, 10, request.digest, request.members).to_bytes()
        refused(made.answer, 0, short, match="lists 4 of 10 clients: must list 10", stage="share_keys", peer="server")


def test_a_cohort_is_not_cut_into_pairs() -> None:
    check_a_cohort_is_not_cut_into_pairs()


def test_nobody_is_left_to_begin_again_with() -> None:
    check_nobody_is_left_to_begin_again_with()


def test_two_rosters_of_one_cohort_share_an_honest_signer() -> None:
    check_two_rosters_of_one_cohort_share_an_honest_signer()


def test_one_of_nine_may_be_corrupt() -> None:
    check_one_of_nine_may_be_corrupt()


def test_one_lie_gives_no_two_secrets() -> None:
    check_one_lie_gives_no_two_secrets()


def test_a_roster_is_counted_before_numbers_are_searched_for() -> None:
    check_a_roster_is_counted_before_numbers_are_searched_for()


# --- restarts ---------------------------------------------------------------------------------------------------------


def check_an_attempt_s_number_is_used_once() -> None:
    memories = {number: Memory() for number in range(4)}
    Group(parameters(attempt=1), memories=memories).answer(0, None)
    before: list[dict[str, Any]] = [{"attempt": 1}, {"attempt": 0}, {"round": 2, "attempt": 5}]
    after: list[dict[str, Any]] = [{"attempt": 2}, {"round": 4}, {"run": "another"}]
    for again in before:
        made = Group(parameters(**again), memories=memories)
        refused(made.answer, 0, None, match="must come after attempt 1 at round 3", stage="advertise_keys", peer="client 0")
    for again in after:
        Group(parameters(**again), memories=memories).answer(0, None)


def check_a_restart_forgets_nothing(folder: Path) -> None:
    """A client's process ends after each attempt; the next one reads what it did."""
    path = folder / "client 0"
    for attempt, deed in enumerate(("is begun", "is lost", "releases", "comes too late")):
        with StoredMemory(path) as memory:
            made = Group(parameters(attempt=attempt), seed=deed, memories={0: memory})
            if deed == "comes too late":
                refused(made.answer, 0, None, match="helped to release a sum of round 3")
                return
            if deed == "is lost":
                made = Group(parameters(attempt=0), memories={0: memory})
                refused(made.answer, 0, None, match="must come after attempt 0")
                continue
            if deed == "is begun":
                made.answer(0, None)
            else:
                made.end()
    raise AssertionError("not reached")


def test_an_attempt_s_number_is_used_once() -> None:
    check_an_attempt_s_number_is_used_once()


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    check_a_restart_forgets_nothing(tmp_path)


def test_a_client_says_nothing_that_it_could_forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails: before an advert, and before shares are revealed. Nothing is sent, and the old state stands."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        path = tmp_path / step
        with StoredMemory(path) as memory:
            made = Group(parameters(), memories={0: memory}).to(Stage.UNMASKING)
            with monkeypatch.context() as patch:
                patch.setattr(os, step, fail)
                with pytest.raises(StorageError, match="No space left on device: a client answers only after"):
                    made.answer(0, made.server.request(0))
                with pytest.raises(StorageError, match="free disk space"):
                    Group(parameters(round=4), memories={0: memory}).answer(0, None)
            refused(made.answer, 0, made.server.request(0), match="took no further part")
        with StoredMemory(path) as memory:
            assert memory.of("tests") == Progress(3, 0, -1)


def test_one_process_at_a_time_has_a_memory(tmp_path: Path) -> None:
    with StoredMemory(tmp_path / "memory"), pytest.raises(StorageError, match="another process has it"):
        StoredMemory(tmp_path / "memory")
    StoredMemory(tmp_path / "memory").close()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": "privfl secagg memory", "runs": {"a": {"round": 1}}}', b"\xff"])
def test_a_damaged_memory_is_not_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "memory").write_bytes(content)
    with pytest.raises(StorageError, match="damaged; restore it, or give the client a new identity") as caught:
        StoredMemory(tmp_path / "memory")
    assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match="No such file"):
        StoredMemory(tmp_path / "no folder" / "memory")


# --- who sent what ----------------------------------------------------------------------------------------------------


def check_a_message_is_its_sender_s() -> None:
    """Whoever sends a message in another's name could have it left out, or spoil the sum."""
    made = group(COMPLETE_ACTIVE)
    while (stage := made.server.stage) is not None:
        answers = made.answers()
        refused(made.server.receive, 2, answers[1], match="in the name of sender 1", stage=stage, peer="client 2")
        other = Refusal(3, 1, 0, 1, 1, "it never said so").to_bytes()
        refused(made.server.receive, 2, other, match="in the name of sender 1", stage=stage, peer="client 2")
        made.close(answers)
    assert made.server.result().survivors == made.numbers


def test_a_message_is_its_sender_s() -> None:
    check_a_message_is_its_sender_s()


def test_who_refuses_is_told_from_who_is_silent() -> None:
    made, meter = group(COMPLETE, 7), Meter()
    made.clients[2]._global_D = np.ones(3, np.float32)
    made.clients[4]._over = True
    found = play(made.server, made.clients, made.vector, {3: Stage.MASKED_INPUT}, meter)
    assert found.survivors == (0, 1, 5, 6)
    (refusal,) = made.server.refusals.values()
    assert (refusal.sender, refusal.stage, refusal.at_fault) == (4, 1, 4)
    assert "took no further part" in refusal.reason
    assert meter.refused.keys() == {2, 4}, "the server refused client 2, client 4 refused; client 3 was silent"


def test_a_round_that_ends_says_what_was_refused() -> None:
    made = group(COMPLETE).to(Stage.SHARE_KEYS)
    for number in (0, 1):
        with pytest.raises(ProtocolError) as caught:
            made.answer(number, (made.server.request(number) or b"")[:-1])
        made.receive(made.clients[number].refusal(caught.value))
    assert made.server.awaited == {2, 3}
    refused(made.receive, made.clients[0].refusal(caught.value), match="not awaited", peer="client 0")
    below(
        made.close, made.answers(), match="2 clients shared their keys: must be at least 3; begin the round again or skip it; "
    )
    assert made.server.refusals[1].at_fault == 2**32 - 1


def test_a_refusal_of_another_attempt_or_round_evicts_nobody() -> None:
    made = group(COMPLETE)
    for other in (Refusal(3, 1, 7, 1, 1, "attempt 7"), Refusal(2, 1, 0, 1, 1, "round 2")):
        refused(made.receive, other.to_bytes(), stage="advertise_keys", peer="client 1")
    assert made.end().survivors == made.numbers


# --- afterwards -------------------------------------------------------------------------------------------------------


def octets_in(value: Any, depth: int = 4) -> list[bytes]:
    """All bytes that can be reached from an object's fields."""
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, dict):
        return [one for item in [*value.keys(), *value.values()] for one in octets_in(item, depth)]
    if isinstance(value, list | tuple | set | frozenset):
        return [one for item in value for one in octets_in(item, depth)]
    if isinstance(value, np.ndarray):
        return [value.tobytes()]
    return octets_in(vars(value), depth - 1) if depth and hasattr(value, "__dict__") else []


def check_secrets_do_not_outlive_their_round() -> None:
    """Of a client that is done, and of one that refused a message."""
    for ending in ("done", "refused"):
        made = group(COMPLETE_ACTIVE, 5).to(Stage.UNMASKING)
        one = made.clients[0]
        assert isinstance(one._channel, KeyPair)
        secrets = [one._seed, one._mask.private, one._channel.private, *one._channels.values()]
        secrets += [share for share, _ in one._held.values()]
        assert all(any(secret in found for found in octets_in(vars(one))) for secret in secrets), "the check must see them"
        request = made.server.request(0) or b""
        if ending == "done":
            made.answer(0, request)
        else:
            refused(made.answer, 0, request[:-1])
        assert not any(secret in found for found in octets_in(vars(one)) for secret in secrets), ending


def test_secrets_do_not_outlive_their_round() -> None:
    check_secrets_do_not_outlive_their_round()
