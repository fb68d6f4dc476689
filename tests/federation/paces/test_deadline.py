"""Deadlines: who is late, what is kept of their work, and how secure aggregation loses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hand_made import turns
from small_runs import small

from privfl.errors import ConfigError, ProtocolError
from privfl.federation.lateness import Lateness
from privfl.federation.paces import Turn
from privfl.federation.paces.deadline import Deadline
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.recording import run

PLAIN: dict[str, Any] = {
    "training": {"local_epochs": 4, "batch_size": 16, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "cohort": {"kind": "fixed", "size": 10},
    "clock": {"kind": "lognormal", "seconds": 10.0},
}
CENTRAL = {"kind": "client_central", "noise_multiplier": 1.0, "delta": 0.01, "max_update_norm": 1.0}


def test_by_hand() -> None:
    """Of 4 units a client that takes 12 s for all has finished 3 in 10 s; one that takes 50 s has finished none."""
    pace = Deadline(kind="deadline", seconds=10.0)
    assert turns(pace, (4.0, 10.0, 12.0, 50.0), 2) == [
        Turn((0, 1), late=(2, 3), ends=10.0),
        Turn((0, 1), late=(2, 3), ends=20.0),
    ]
    partial = pace.model_copy(update={"late": "partial"})
    assert turns(partial, (4.0, 10.0, 12.0, 50.0), 1) == [Turn((0, 1, 2), work={2: 3}, late=(3,), ends=10.0)]
    before = pace.model_copy(update={"masking": "before"})
    assert turns(before, (4.0, 10.0, 12.0, 50.0), 1) == [Turn((0, 1, 2, 3), lost=frozenset({2, 3}), ends=10.0)]
    # Nobody waits for a deadline that everybody meets.
    assert turns(pace, (4.0, 6.0), 2) == [Turn((0, 1), ends=6.0), Turn((0, 1), ends=12.0)]


def test_a_deadline_that_all_meet_is_a_synchronous_run_to_the_bit() -> None:
    with deterministic():
        models = [assemble(small(**PLAIN, pace=pace)).train() for pace in ("synchronous", {"kind": "deadline", "seconds": 1e9})]
    assert torch.equal(*models)


def test_clients_that_are_late_after_their_keys_were_exchanged_are_lost_at_the_masked_input(tmp_path: Path) -> None:
    """The protocol withstands as many as it was set up for; the sum is that of the others."""
    secure = {"kind": "secure_sum", "max_dropout": 0.4}
    tables = {**PLAIN, "aggregator": secure, "rounds": 3}
    pace = {"kind": "deadline", "seconds": 11.0, "masking": "before"}
    folder = run(small(**tables, pace=pace), tmp_path / "before")
    turned = assemble(small(**tables, pace=pace)).timetable.turns
    assert any(turn.lost for turn in turned)
    for record, turn in zip(folder.rounds(), turned, strict=True):
        assert record.secure is not None
        left = sorted(set(turn.clients) - turn.lost)
        if len(turn.lost) <= 4:
            assert record.survivors == left
            assert record.secure.lost == ({"masked_input": sorted(turn.lost)} if turn.lost else {})
        else:
            assert record.skipped is not None
    # The same late clients as when only those in time agree on keys.
    after = assemble(small(**tables, pace={"kind": "deadline", "seconds": 11.0})).timetable.turns
    assert [turn.late for turn in after] == [tuple(sorted(turn.lost)) for turn in turned]


def test_an_aggregator_that_counts_lost_clients_is_found_out() -> None:
    lateness = Lateness(Deadline(kind="deadline", seconds=1.0), Turn((0, 1, 2), lost=frozenset({1})), 0)
    lateness.require_lost([0, 2])
    with pytest.raises(ProtocolError, match=r"clients \[1\] were late and are in the sum"):
        lateness.require_lost([0, 1, 2])


def test_lateness_depends_on_nobody_else_so_secret_cohorts_keep_their_price() -> None:
    """The late of a cohort are those of the clients that are late in that round whoever is drawn."""
    pace = {"kind": "deadline", "seconds": 11.0}
    poisson = {**PLAIN, "cohort": {"kind": "poisson", "size": 5}, "privacy": CENTRAL, "rounds": 20}
    everybody = assemble(small(**{**poisson, "cohort": {"kind": "all"}}, pace=pace)).timetable.turns
    some = assemble(small(**poisson, pace=pace))
    for turn, of_all in zip(some.timetable.turns, everybody, strict=True):
        assert set(turn.late) == set(of_all.late) & set(turn.asked)
    # The price and the noise are those of the cohorts as they are drawn.
    without = assemble(small(**poisson))
    assert some.ledger(20).epsilon() == without.ledger(20).epsilon()
    assert some.plan == without.plan


def test_correlated_noise_counts_on_cohorts_as_they_are_drawn() -> None:
    plan = {**CENTRAL, "kind": "client_dpftrl"}
    config = small(**{**PLAIN, "privacy": plan, "cohort": {"kind": "separated", "size": 3, "separation": 3}},
                   pace={"kind": "deadline", "seconds": 9.0})  # fmt: skip
    experiment = assemble(config)
    assert any(turn.late for turn in experiment.timetable.turns)
    with deterministic():
        assert experiment.train().isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pace": {"seconds": 0.01}},
            "pace.seconds = 0.01: every client is late in every round; in the first round the fastest",
        ),
        ({"clock": "untimed"}, "clock.kind = 'untimed': pace 'deadline' needs to know how long clients take; set 'constant'"),
        ({"pace": {"masking": "before"}}, "pace.masking = 'before': aggregator 'mean' has no masks; leave it out"),
        (
            {"pace": {"masking": "before", "late": "partial"}, "aggregator": "secure_sum"},
            "belongs to pace.late = 'drop': partial work arrives in time",
        ),
        ({"pace": {"seconds": -1.0}}, "pace.seconds = -1"),
    ],
)
def test_what_cannot_be_is_refused_before_training(changes: dict[str, Any], message: str) -> None:
    pace = {"kind": "deadline", "seconds": 10.0, **changes.pop("pace", {})}
    with pytest.raises(ConfigError) as found:
        assemble(small(**{**PLAIN, **changes}, pace=pace))
    assert message in str(found.value)
