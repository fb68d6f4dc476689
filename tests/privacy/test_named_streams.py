"""Each draw has its own stream: over rounds, over clients, and, in secure mode, from a root that is not the seed.

The ``check_...`` functions are put to an experiment that was broken on purpose as well (``test_privacy_mutants.py``).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from small_runs import small

from privfl.config import ExperimentConfig
from privfl.federation.server_state import ServerState
from privfl.running import assembling
from privfl.running.experiment import Experiment
from privfl.seeding import Seed


def privacy(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5, **changes}


CENTRAL, LOCAL = privacy("client_central"), privacy("client_local")
SHARES = privacy("client_distributed", survivors=3)
EVERYBODY = {"kind": "all"}
PUBLIC_COHORT, ROOT = Seed(0), Seed(2**200 + 7)
"""The run's seed, and what the operating system gave in its place."""


def assembled(plan: dict[str, Any], randomness: str = "seeded", **changes: Any) -> Experiment:
    config: ExperimentConfig = small(privacy={**plan, "randomness": randomness}, **changes)
    return assembling.assemble(config, secret=ROOT)


def states(one: Experiment) -> Iterator[ServerState]:
    """Of three rounds that begin with the same model."""
    for number in range(3):
        yield replace(one.initial_state(), round=number)


def keys_of_clients(one: Experiment) -> Iterator[bytes]:
    """Of every stream that a client draws from, in three rounds with everybody."""
    for state in states(one):
        cohort = one.cohort(state)
        for client in cohort.clients:
            for name in ("noise", "batches", "layers"):
                yield (cohort.task(client).seed / name).key()


def keys_of_the_server(one: Experiment) -> Iterator[bytes]:
    for state in states(one):
        for name in ("noise", "count"):
            yield (one._round(state).stream / name).key()


def keys_of_shares(one: Experiment) -> Iterator[bytes]:
    for state in states(one):
        yield one._context(state, observed=False, transcript=None).noise_key


def _are_apart(keys: Callable[[Experiment], Iterator[bytes]], plan: dict[str, Any], **changes: Any) -> None:
    """No two are the same; and none stays the same when the run has another seed, or another root in secure mode."""
    found = list(keys(assembled(plan, **changes)))
    assert len(set(found)) == len(found)
    assert not set(found) & set(keys(assembled(plan, **changes, seed=1)))
    if plan is not SHARES:
        secure = set(keys(assembled(plan, "secure", **changes)))
        assert len(secure) == len(found)
        of_the_seed = replace(assembled(plan, "secure", **changes), secret=PUBLIC_COHORT)
        assert not secure & set(keys(of_the_seed))


def check_clients_streams_are_apart() -> None:
    """Over rounds, over clients, and over what is drawn."""
    _are_apart(keys_of_clients, LOCAL, cohort=EVERYBODY)


def check_server_streams_are_apart() -> None:
    _are_apart(keys_of_the_server, CENTRAL)


def check_shares_are_apart() -> None:
    """Every round; and in secure mode whoever has the seed has none of them."""
    _are_apart(keys_of_shares, SHARES, cohort=EVERYBODY)
    secure = assembled(SHARES, "secure", cohort=EVERYBODY)
    assert not set(keys_of_shares(secure)) & set(keys_of_shares(replace(secure, secret=PUBLIC_COHORT)))


def check_secret_cohorts_are_of_no_seed() -> None:
    """In secure mode who takes part follows from the secret root: another root, another draw; another seed, the same."""
    config = small(privacy={**CENTRAL, "randomness": "secure"}, rounds=20)
    one, other = (assembling.assemble(config, secret=root).cohorts for root in (ROOT, Seed(2**200 + 8)))
    assert one != other
    assert one == assembling.assemble(config, secret=ROOT).cohorts
    seeded = small(privacy=CENTRAL, rounds=20)
    assert assembling.assemble(seeded).cohorts == assembling.assemble(seeded).cohorts


@pytest.mark.parametrize(
    "check",
    [
        check_clients_streams_are_apart,
        check_server_streams_are_apart,
        check_shares_are_apart,
        check_secret_cohorts_are_of_no_seed,
    ],
)
def test_streams(check: Callable[[], None]) -> None:
    check()
