"""What an attack needs is asked before the first round; more shadow models join those that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import SMALL, small

from attacks import Attack, _shadows
from attacks._coins import draw_memberships
from attacks._run import run_attacks
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import ConfigError, UserError
from privfl.report import write_report
from privfl.running.knowledge import ModelOutputs
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder

PLAIN: dict[str, Any] = {"privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}, "rounds": 1}


def attacking(*names: str, shadows: int = 2, **changes: Any) -> Any:
    return small(**PLAIN, attacks={"run": list(names), "shadow_models": shadows}, **changes)


def holding_out(share: float) -> dict[str, Any]:
    return {"data": {**SMALL["data"], "holdout": share}}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (attacking("membership/loss", **holding_out(1e-9)), r"no attack can be run on no candidates"),
        (attacking("membership/loss", **holding_out(1e-3)), r"no attack can be run on \d candidates.*raise data\.holdout"),
    ],
)
def test_a_run_that_cannot_be_attacked_does_not_begin(config: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shadow_models_that_all_trained_on_all_candidates_or_on_none_are_refused() -> None:
    (lira,) = attacking("membership/lira").attacks.run
    (bavaria,) = attacking("membership/bavaria").attacks.run
    assert isinstance(lira, Attack)
    assert isinstance(bavaria, Attack)
    for attack, alike in ((lira, True), (bavaria, True), (bavaria, False)):
        with pytest.raises(ConfigError, match="no candidate is left out of, or in, any shadow"):
            attack.require_shadows(np.full((1, 3), alike))
    # LiRA's offline variants need no shadow model that trained on a candidate.
    lira.require_shadows(np.full((1, 3), fill_value=False))
    lira.require_shadows(np.array([[True, False]]))


def test_with_nothing_held_out_all_train_on_all_and_the_page_says_why_nothing_was_attacked(tmp_path: Path) -> None:
    folder = run(small(**PLAIN, **holding_out(0)), tmp_path / "run")
    assert np.sum(folder.partition.counts) == 1438
    page = " ".join(write_report([folder], folder.path / "report.html").read_text(encoding="utf-8").split())
    assert "nothing was held out" in page
    assert "type <code>privfl attack" not in page
    assert "their own held-out examples" not in page
    with pytest.raises(UserError, match=r"on no candidates, as nothing is held out"):
        run_attacks(folder, ["membership/loss"])
    assert not (folder.path / "attacks").exists()


# --- more shadow models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 3), (2, 5), (3, 4), (4, 8)])
def test_rows_that_join_others_make_each_column_even_and_are_fair_coins(before: int, after: int) -> None:
    first_SN = draw_memberships(before, 20_000, np.random.default_rng(0))
    member_SN = draw_memberships(after, 20_000, np.random.default_rng(1), first_SN)
    assert (member_SN[:before] == first_SN).all()
    assert set(member_SN.sum(0)) == {after // 2, (after + 1) // 2}
    # Four standard deviations of 20,000 fair coins, and of how often neighbours agree: 8 rows at most, 2 · 6e-5 each.
    for row in member_SN:
        for coins in (row, row[1:] == row[:-1]):
            assert abs(coins.mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    assert (draw_memberships(before, 20_000, np.random.default_rng(2), member_SN) == first_SN).all()


def test_more_shadow_models_join_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def train(_: Any, job: Any) -> list[_shadows._Trained]:
        trained.extend(job.indices)
        noise, candidates = np.random.default_rng(job.indices), job.member_SN.shape[1]
        sizes = [(candidates, 359)] * len(job.indices)
        outputs = [ModelOutputs(*(noise.standard_normal((size, 10), np.float32) for size in both)) for both in sizes]
        return [_shadows._Trained(np.zeros(650, np.float32), one) for one in outputs]

    monkeypatch.setattr(_shadows, "_train_group", train)
    monkeypatch.setattr(_shadows, "cores", lambda: 1)
    folder = run(attacking("membership/lira", "membership/loss"), tmp_path / "run")
    run_attacks(folder)
    assert trained == [0, 1]
    before = {path: path.read_bytes() for path in (folder.path / "attacks" / "shadows").glob("shadow_*")}
    assert run_attacks(folder, ["membership/rmia"])[0].shadow_models == 2
    (found,) = run_attacks(folder, ["membership/lira"], settings=["attacks.shadow_models=5"])
    assert isinstance(found, MembershipFinding)
    assert trained == [0, 1, 2, 3, 4]
    assert {path: path.read_bytes() for path in before} == before
    # All are of five now; RMIA, which was not named, too.
    assert found.shadow_models == 5
    assert {one.attack for one in found.attacks} == {"membership/lira", "membership/loss", "membership/rmia"}
    # From now on these are the run's: its configuration says so, and nothing is trained again.
    again = RunFolder.open(folder.path)
    assert again.config.attacks.shadow_models == 5
    assert run_attacks(again) == (found,)
    assert trained == [0, 1, 2, 3, 4]
    # Fewer are the first of them.
    assert run_attacks(again, settings=["attacks.shadow_models=2"])[0].shadow_models == 2
    assert trained == [0, 1, 2, 3, 4]


def test_only_attacks_may_change_once_a_run_is_finished(tmp_path: Path) -> None:
    folder = run(attacking("membership/loss"), tmp_path / "run")
    config = (folder.path / "config.toml").read_bytes()
    for setting, why in (
        ("training.lr=0.3", r"only attacks\.\* may change"),
        ("attacks.shadow_modles=3", "did you mean 'shadow_models'"),
        ('attacks={run=["membership/lira"], shadow_models=0}', r"only attacks\.\* may change"),
    ):
        with pytest.raises(ConfigError, match=why):
            run_attacks(folder, settings=[setting])
    assert (folder.path / "config.toml").read_bytes() == config
