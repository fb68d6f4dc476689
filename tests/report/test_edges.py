"""Runs at the edges: what their pages say of rounds that were lost, cohorts of one, and promises to clients, is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from page_reader import Reader
from small_runs import SMALL, small

from privfl.errors import ConfigError, RunFolderError
from privfl.report import write_report
from privfl.report.run_records import RunRecords
from privfl.running.assembling import assemble
from privfl.running.composing import compose
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.running.sweeping import variants


def words(folder: RunFolder) -> str:
    """The page as a reader sees it."""
    page = write_report([folder], folder.path / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", Reader(page).text)


def client(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 1.0, **changes}


def losing(share: float) -> dict[str, Any]:
    return {"kind": "secure_sum", "dropout": {"masked_input": share}}


def test_of_rounds_that_were_all_lost_the_page_says_that_clients_trained(tmp_path: Path) -> None:
    folder = run(small(cohort={"kind": "fixed", "size": 4}, aggregator=losing(0.97)), tmp_path / "run")
    assert len(RunRecords.read(folder).lost_rounds) == folder.result.rounds == 4
    said = words(folder)
    assert "No round reached a sum" in said
    assert "the ε that they spent stays spent" in said
    assert "there is nothing to compare" in said
    assert "Nobody trained" not in said
    assert "no client sent anything" not in said


def test_bytes_a_round_are_of_the_rounds_that_sent_them(tmp_path: Path) -> None:
    folder = run(small(rounds=12, cohort={"kind": "fixed", "size": 4}, aggregator=losing(0.5)), tmp_path / "run")
    found = RunRecords.read(folder)
    assert 0 < len(found.skipped_rounds) < 12
    assert f"{folder.result.bytes_up / 12 / 1000:.3g} kB" in words(folder)
    assert "including those of lost rounds and of repeats" in words(folder)


def test_a_sum_of_one_client_and_zeros_is_called_so(tmp_path: Path) -> None:
    config = small(rounds=8, seed=1, cohort={"kind": "poisson", "size": 1}, privacy=client("client_central"))
    folder = run(config, tmp_path / "run")
    alone = sum(len(record.cohort) == 1 for record in folder.rounds())
    assert 0 < alone == RunRecords.read(folder).single_client_rounds
    said = words(folder)
    assert "with a single client, the update of that client beside zeros" in said
    assert "never the update of one client" not in said
    assert f"of one client alone in {alone} round" in said


def test_a_run_that_ends_before_its_first_round_has_a_page(tmp_path: Path) -> None:
    folder = run(small(privacy={**SMALL["privacy"], "noise_multiplier": 0.5, "max_epsilon": 0.1}), tmp_path / "run")
    assert folder.result.rounds == 0
    assert "The run ended early, after 0 rounds" in words(folder)


def test_where_who_takes_part_is_public_nothing_else_is_claimed(tmp_path: Path) -> None:
    folder = run(small(rounds=2, cohort={"kind": "all"}, privacy=client("client_local")), tmp_path / "run")
    said = words(folder)
    assert "Protected The content of any one client's updates" in said
    assert "One client's update replaced by zeros changes the probability" in said
    assert "The use of any one client" not in said
    assert "clipped updates" in (folder.path / "report.html").read_text(encoding="utf-8")
    assert "per-example gradients" not in said


def test_where_everybody_always_takes_part_that_is_no_secret(tmp_path: Path) -> None:
    folder = run(small(rounds=2, cohort={"kind": "all"}, privacy=client("client_central")), tmp_path / "run")
    assert "all of them take part in every round" in words(folder)
    assert "keep it secret" not in words(folder)


def test_an_adaptive_norms_noise_is_that_of_sum_and_count_together(tmp_path: Path) -> None:
    folder = run(small(privacy=client("client_central", noise_multiplier=0.3, clipping="adaptive")), tmp_path / "run")
    assert "to their sum and to the count that moves the norm" in words(folder)


@pytest.mark.parametrize("randomness", ["seeded", "secure"])
def test_only_a_seeded_run_says_that_it_can_be_repeated(randomness: str, tmp_path: Path) -> None:
    folder = run(small(rounds=1, privacy={**SMALL["privacy"], "randomness": randomness}), tmp_path / "run")
    assert ("The same seed gives the same model" in words(folder)) == (randomness == "seeded")


def test_the_median_over_an_even_number_of_clients_lies_between_two(tmp_path: Path) -> None:
    folder = run(small(), tmp_path / "run")
    assert folder.result.privacy is not None
    spent = sorted(folder.result.privacy.epsilon_clients)
    assert len(spent) == 10
    assert f"through {(spent[4] + spent[5]) / 2:.2f} (median)" in words(folder)


def test_a_run_without_a_promise_has_no_price(tmp_path: Path) -> None:
    folder = run(small(rounds=1, privacy={"kind": "none"}), tmp_path / "run")
    with pytest.raises(RunFolderError, match="promises nothing"):
        compose([folder])


def test_cohorts_that_nobody_would_train_in_are_named() -> None:
    privacy = {"kind": "example", "target_epsilon": 2.0, "delta": 1e-4, "max_grad_norm": 1.0}
    with pytest.raises(ConfigError, match=r"no round would train anybody \(a cohort of [012]; secure_sum needs at least 3\)"):
        assemble(small(rounds=1, cohort={"kind": "poisson", "size": 1}, privacy=privacy))


def test_an_empty_range_is_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("rounds = 1")
    with pytest.raises(ConfigError, match=r"5\.\.0: is an empty range"):
        variants(tmp_path / "config.toml", ["seed=5..0"])
