"""More than one attempt at a round: no two sums are released of which one client's update is the difference."""

from __future__ import annotations

import numpy as np
import pytest
from secagg_cohort import POLICIES, Group, parameters, refused, remember

from privfl.errors import ThresholdError
from privfl.secagg.memory import Memory, Progress
from privfl.secagg.session import Stage

every_policy = pytest.mark.parametrize("kind", POLICIES)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


def attempts(kind: str, count: int = 2) -> list[Group]:
    """Attempts at one round by clients who remember what they did; the server has nobody's word that one failed."""
    memories = {number: Memory() for number in range(4)}
    return [
        Group(parameters(POLICIES[kind], attempt=number), seed=f"attempt {number}", memories=memories)
        for number in range(count)
    ]


def check_a_client_that_revealed_takes_part_in_no_other_attempt(kind: str) -> None:
    """The server has the sum of all, claims that it has not, and begins again to have the sum of all but one."""
    first, second = attempts(kind)
    assert np.array_equal(first.end().words_D, first.plain(first.numbers))
    for number in second.numbers:
        refused(second.answer, number, None, match="in another attempt", stage="advertise_keys", peer=f"client {number}")


def check_of_attempts_side_by_side_one_is_answered(kind: str) -> None:
    """Both attempts are played up to the survivors before anything is asked for in either."""
    first, second = attempts(kind)
    stage = Stage.CONSISTENCY_CHECK if first.parameters.active else Stage.UNMASKING
    first.to(stage)
    second.to(stage, {3: Stage.MASKED_INPUT})
    assert first.end().survivors == first.numbers
    for number in (0, 1, 2):
        refused(second.answer, number, second.server.request(number), match="in another attempt", stage=stage)


def check_a_signature_counts_as_revealing() -> None:
    """Against an active server: others reveal on it, so that who signed in one attempt signs in no other."""
    first, second = attempts("complete, active")
    first.to(Stage.CONSISTENCY_CHECK)
    first.answer(0, first.server.request(0))
    refused(second.answer, 0, None, match="in another attempt")
    second.answer(1, None)


@every_policy
def test_a_client_that_revealed_takes_part_in_no_other_attempt(kind: str) -> None:
    check_a_client_that_revealed_takes_part_in_no_other_attempt(kind)


@every_policy
def test_of_attempts_side_by_side_one_is_answered(kind: str) -> None:
    check_of_attempts_side_by_side_one_is_answered(kind)


def test_a_signature_counts_as_revealing() -> None:
    check_a_signature_counts_as_revealing()


@every_policy
def test_an_attempt_in_which_nothing_was_asked_for_may_be_followed_by_another(kind: str) -> None:
    first, second, third = attempts(kind, 3)
    first.to(Stage.MASKED_INPUT)
    with pytest.raises(ThresholdError):
        first.close({})
    assert not first.server.releasing
    # A request that is refused releases nothing either.
    second.to(Stage.CONSISTENCY_CHECK if second.parameters.active else Stage.UNMASKING)
    assert second.server.releasing
    refused(second.answer, 0, b"", match="cut short")
    assert np.array_equal(third.end().words_D, third.plain(third.numbers))


@every_policy
def test_the_next_round_is_another_matter(kind: str) -> None:
    (first,) = attempts(kind, 1)
    first.end()
    following = Group(parameters(POLICIES[kind], round=4), memories=first.memories)
    assert following.end().survivors == following.numbers
    assert {memory.of("tests") for memory in first.memories.values()} == {Progress(4, 0, 4)}
