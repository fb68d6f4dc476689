"""Many runs as one table, and side by side on one page."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from small_runs import small

import privfl
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import RunFolderError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in their promise, beside something else."""
    place = tmp_path_factory.mktemp("runs")
    privfl.run(small(rounds=1, attacks={"run": ["membership/loss"], "shadow_models": 0}), place / "a").attack()
    privfl.run(small(rounds=1, privacy={"kind": "none"}, aggregator={"kind": "mean"}, name="other"), place / "b")
    (place / "figures").mkdir()
    (place / "comparison.html").touch()
    return place


def test_a_table_has_a_row_for_each_run(runs: Path) -> None:
    table = privfl.load_runs(f"{runs}/*")
    first, second = (privfl.Run(runs / name) for name in "ab")
    assert table["run"].tolist() == [str(runs / "a"), str(runs / "b")]
    assert table["privacy.kind"].tolist() == ["example", "none"]
    assert table["aggregator.kind"].tolist() == ["secure_sum", "mean"]
    assert not {"name", "model.kind", "rounds.1"} & set(table.columns)
    assert table["rounds"].tolist() == [1, 1]
    for name in ("accuracy", "loss"):
        assert table[name].tolist() == [one.metrics[name].value for one in (first, second)]
        assert table[f"{name}_low"].tolist() == [one.metrics[name].low for one in (first, second)]
    assert table["epsilon"].tolist() == [float(first.epsilon), math.inf]
    assert table["delta"][0] == 1e-4
    assert math.isnan(table["delta"][1])
    assert table["bytes_up"].tolist() == [first.result.bytes_up, second.result.bytes_up]
    (finding,) = first.findings
    assert isinstance(finding, MembershipFinding)
    assert table["epsilon_measured"][0] == finding.best.epsilon_lower
    assert math.isnan(table["epsilon_measured"][1])
    (at,) = [rate for rate in finding.best.rates if rate.fpr == 0.01]
    assert (at.tpr is None) == math.isnan(table["tpr_at_1pct_fpr"][0])


def test_runs_are_given_as_runs_folders_or_patterns(runs: Path) -> None:
    given: list[str | Path | privfl.Run] = [privfl.Run(runs / "b"), runs / "a", str(runs / "[a]")]
    assert privfl.load_runs(given)["run"].tolist() == [str(runs / name) for name in "baa"]
    assert len(privfl.load_runs(runs / "a")) == 1


def test_a_pattern_that_matches_no_run_is_refused(runs: Path) -> None:
    with pytest.raises(RunFolderError, match=r"fig\*: matches no run folder; give a pattern"):
        privfl.load_runs(f"{runs}/fig*")
    with pytest.raises(RunFolderError, match="figures: is not a run folder"):
        privfl.load_runs([runs / "a", runs / "figures"])


def test_they_are_compared_on_one_page(runs: Path, tmp_path: Path) -> None:
    page = privfl.compare(f"{runs}/*", tmp_path / "page.html")
    assert ", 2 runs</h1>" in page.read_text()
