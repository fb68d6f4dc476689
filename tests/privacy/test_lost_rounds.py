"""Rounds that too few clients survive: what was drawn is charged once, whether it arrived or not, under every plan."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from small_runs import small

from privfl.privacy.ledger import Entry
from privfl.report import write_report
from privfl.report.headline import warnings
from privfl.report.run_records import RunRecords
from privfl.running import recording
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder

ROUNDS = 3
CLIENT: dict[str, Any] = {"noise_multiplier": 1.0, "delta": 1e-4, "max_update_norm": 1.0}
PLANS: dict[str, dict[str, Any]] = {
    "example": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "client_central": {"kind": "client_central", **CLIENT},
    "client_local": {"kind": "client_local", **CLIENT},
    "client_distributed": {"kind": "client_distributed", "survivors": 3, **CLIENT},
}
# Nobody is left of the first attempt at round 1, at a stage after which a round may be begun again, or may not.
EARLY = {"schedule": [{"round": 1, "stage": "masked_input", "clients": list(range(10))}]}
LATE = {"schedule": [{"round": 1, "stage": "unmasking", "clients": list(range(10))}]}
LOSSES: dict[str, tuple[dict[str, Any], list[int], list[int]]] = {
    # The aggregator's settings, the attempts at each round, and which rounds are lost.
    "repeated": ({"dropout": EARLY}, [1, 2, 1], []),
    "skipped": ({"dropout": EARLY, "below_threshold": "skip"}, [1, 1, 1], [1]),
    "lost while revealing": ({"dropout": LATE}, [1, 1, 1], [1]),
    "all lost in all attempts": ({"dropout": {"masked_input": 1.0}, "attempts": 2}, [2, 2, 2], [0, 1, 2]),
    "some lost, none below": ({"dropout": {"share_keys": 0.05, "masked_input": 0.05}, "max_dropout": 0.2}, [1, 1, 1], []),
}


@functools.cache
def folder(plan: str, losses: str | None) -> RunFolder:
    aggregator = {"kind": "secure_sum", **(LOSSES[losses][0] if losses is not None else {})}
    settings = {"privacy": PLANS[plan], "aggregator": aggregator, "rounds": ROUNDS, "cohort": {"kind": "fixed", "size": 7}}
    path = Path(tempfile.mkdtemp()) / "run"
    return run(small(**settings, server={"kind": "fedavg"}, records={"views": "final"}), path)


def charges(one: RunFolder) -> list[tuple[int, Any]]:
    entries = map(Entry.model_validate_json, (one.path / "ledger.jsonl").read_bytes().splitlines()[1:])
    return [(entry.round, account) for entry in entries for account in entry.events()]


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("plan", PLANS)
def test_what_was_drawn_is_charged_once_whether_it_arrived_or_not(plan: str, losses: str) -> None:
    _, attempts, lost = LOSSES[losses]
    one, whole = folder(plan, losses), folder(plan, None)
    rounds = one.rounds()
    assert [record.secure.attempts for record in rounds if record.secure is not None] == attempts
    assert [record.round for record in rounds if not record.survivors] == lost
    # The ledger knows of no losses: the server's noise is drawn once a round, a client's own once by each of the cohort.
    assert (one.path / "ledger.jsonl").read_bytes() == (whole.path / "ledger.jsonl").read_bytes()
    accounts = [["everybody"] if plan == "client_central" else record.cohort for record in rounds]
    assert charges(one) == [(number, account) for number, some in enumerate(accounts) for account in some]
    assert [record.epsilon for record in rounds] == [record.epsilon for record in whole.rounds()]
    # Where the server adds the noise nobody learns that a round was lost; else the model stays where it was.
    assert [record.round for record in rounds if record.skipped] == ([] if plan == "client_central" else lost)


@pytest.mark.parametrize("crash", [False, True])
def test_a_run_that_stops_where_too_few_are_left_has_its_end_and_its_page(
    crash: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 1 of 3 is lost: it is charged, as its masked vectors were sent, and no other begins, after a crash neither."""
    config = small(
        privacy=PLANS["example"],
        aggregator={"kind": "secure_sum", "dropout": EARLY, "below_threshold": "stop"},
        rounds=ROUNDS,
        cohort={"kind": "fixed", "size": 7},
        server={"kind": "fedavg"},
        records={"views": "final"},
    )
    if crash:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(recording, "privacy_result", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(config, tmp_path / "run")
    one = run(config, tmp_path / "run", resume=crash)
    rounds, whole = one.rounds(), folder("example", None)
    assert one.result.rounds == len(rounds) == 2
    assert one.result.stopped is not None
    assert one.result.stopped.startswith("round 1 was lost: masked_input: ")
    assert [record.stopped for record in rounds] == [None, one.result.stopped]
    assert charges(one) == [charge for charge in charges(whole) if charge[0] < 2]
    assert [record.epsilon for record in rounds] == [record.epsilon for record in whole.rounds()][:2]
    assert any("The run ended early, after 2 rounds of 3: round 1 was lost" in said for said in warnings(RunRecords.read(one)))
    assert write_report([one], one.path / "report.html").is_file()
