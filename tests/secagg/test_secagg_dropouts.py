"""Every way to lose some of four or five clients: the exact sum of exactly the survivors, or an error; never a wrong sum."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import pytest
from secagg_cohort import POLICIES, Group, entropy, group, remember

from privfl.errors import ThresholdError
from privfl.secagg.certificate import Policy, certify
from privfl.secagg.graph import circulant, drawn
from privfl.secagg.server import Unmasked
from privfl.secagg.session import Stage
from privfl.secagg.simulation import Meter, play

Lost = Mapping[int, Stage]

# What stands in the parameters for a client that is never lost.
KEPT = "kept"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


def every_pattern(made: Group, first: Stage | None, lost: Lost) -> Iterator[tuple[Lost, Unmasked | None]]:
    """All patterns that begin with ``lost``, client 0 being lost at ``first``, and what came of each.

    A stage is played once for all patterns that are alike up to there. Where a round ended, who else is lost later
    changes nothing: one pattern stands for all of those.
    """
    stage = made.server.stage
    assert stage is not None
    answers = {}
    for number in sorted(made.server.awaited):
        try:
            answers[number] = made.answer(number, made.server.request(number))
        except ThresholdError:
            continue
    fixed = {0} & made.server.awaited if first is stage else set()
    free = sorted(made.server.awaited - {0})
    for silent in (fixed.union(chosen) for size in range(len(free) + 1) for chosen in combinations(free, size)):
        now, then = {**lost, **dict.fromkeys(sorted(silent), stage)}, made.fork()
        try:
            then.close({number: answer for number, answer in answers.items() if number not in silent})
        except ThresholdError:
            yield now, None
            continue
        if then.server.stage is None:
            yield now, then.server.result()
        else:
            yield from every_pattern(then, first, now)


def expected(made: Group, lost: Lost) -> tuple[int, ...] | None:
    """Whose sum must come out, None where too few are left: counted on its own, from the rules in docs/secagg.md."""
    order = made.parameters.stages

    def left(stage: Stage) -> frozenset[int]:
        return frozenset(one for one in made.numbers if one not in lost or order.index(lost[one]) > order.index(stage))

    roster = tuple(sorted(left(Stage.ADVERTISE_KEYS)))
    try:
        numbers = made.parameters.certificate(len(roster))
    except ThresholdError:
        return None
    holders, t = holders_of(made.parameters.policy, roster, made.seed), numbers.threshold
    sharers = left(Stage.SHARE_KEYS)
    if len(sharers) < numbers.survivors:
        return None
    least = t - (numbers.graph == "complete")
    survivors = frozenset(one for one in left(Stage.MASKED_INPUT) if len(holders[one] & sharers) >= least)
    signers = survivors & left(Stage.CONSISTENCY_CHECK) if made.parameters.active else survivors
    if len(survivors) < numbers.survivors or len(signers) < numbers.quorum:
        return None
    answering = signers & left(Stage.UNMASKING)
    for owner in sharers:
        masked_with_a_survivor = any(one in holders[owner] or owner in holders[one] for one in survivors)
        if owner in survivors or masked_with_a_survivor:
            if numbers.drawn and len(holders[owner] & signers) < t:
                return None
            if len(answering & (holders[owner] | {owner})) < t:
                return None
    return tuple(sorted(survivors))


@functools.cache
def holders_of(policy: Policy, roster: tuple[int, ...], seed: str) -> dict[int, frozenset[int]]:
    """Who holds whose shares, its owner excluded, from the same entropy as that of the roles."""
    numbers = certify(policy, len(roster))
    if numbers.graph == "complete":
        return {one: frozenset(roster) - {one} for one in roster}
    if not numbers.drawn:
        ring = circulant(roster, numbers.neighbours, entropy(seed, "server")(32))
        return {one: frozenset(ring[one].tolist()) for one in roster}
    found = {}
    for one in roster:
        own = entropy(seed, one)
        # A client's fifth piece of entropy is its draw.
        key = [own(32) for _ in range(5)][4]
        found[one] = frozenset(drawn(roster, one, numbers.neighbours, key).tolist())
    return found


@pytest.mark.parametrize("first", [KEPT, *Stage], ids=str)
@pytest.mark.parametrize("clients", [4, 5])
@pytest.mark.parametrize("kind", POLICIES)
def test_every_pattern_of_losses(kind: str, clients: int, first: str) -> None:
    made = group(POLICIES[kind], clients, length=2)
    if first != KEPT and Stage(first) not in made.parameters.stages:
        return
    sums = failures = 0
    for lost, found in every_pattern(made, None if first == KEPT else Stage(first), {}):
        wanted = expected(made, lost)
        assert (None if found is None else found.survivors) == wanted, f"{lost}: {found}, but {wanted} were left"
        if found is None:
            failures += 1
        else:
            assert np.array_equal(found.words_D, made.plain(found.survivors)), f"{lost}: a wrong sum"
            sums += 1
    assert failures > 0, "some patterns must be beyond recovery"
    if first == KEPT:
        assert sums > 0, "some patterns must be recovered from"


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("stage", Stage)
def test_play_does_the_same_as_the_roles_one_by_one(kind: str, stage: Stage) -> None:
    made, twin, meter = group(POLICIES[kind], 6), group(POLICIES[kind], 6), Meter()
    if stage not in made.parameters.stages:
        return
    if expected(made, {2: stage}) is None:
        with pytest.raises(ThresholdError):
            play(made.server, made.clients, made.vector, {2: stage}, meter)
        assert all(isinstance(error, ThresholdError) for error in meter.refused.values())
        return
    found = play(made.server, made.clients, made.vector, {2: stage}, meter)
    assert found.survivors == twin.end({2: stage}).survivors == expected(made, {2: stage})
    assert np.array_equal(found.words_D, made.plain(found.survivors))
    assert meter.refused == {}
