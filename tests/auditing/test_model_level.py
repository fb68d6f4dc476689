"""The estimate of what attacks with shadow models would find: the closed form of Gaussian scores, and its place on the page."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from small_runs import small

from attacks._run import run_attacks
from privfl.auditing.evaluation import FPRS
from privfl.auditing.questions import AttackClaim, Claims, Truth
from privfl.auditing.questions._scores import ScoresClaim
from privfl.auditing.questions.model_level import ModelLevel, ModelLevelFinding
from privfl.report import write_report
from privfl.running.recording import run


def judged(members: int, shift: float) -> ModelLevelFinding:
    rng, count = np.random.default_rng(0), 2 * members
    member, nothing = np.arange(count) % 2 == 0, np.zeros(0)
    everybody = np.ones(count, np.bool_)
    owner = np.zeros(count, np.int64)
    truth = Truth(owner, everybody, member, lambda: np.random.default_rng(0), lambda: (nothing,) * 2, lambda: (nothing,) * 2)
    claim = ScoresClaim({"confidence": rng.normal(size=count) + shift * member})
    return ModelLevel().evaluate(Claims("external", 0, {"membership/model_level": AttackClaim(claim)}), truth, None)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_tail_of_gaussian_scores(shift: float) -> None:
    # Others below the quantile of the members at the rate a:  Φ(Φ⁻¹(a) + shift).
    for tail in judged(20_000, shift).estimates[0].tails:
        assert tail.tnr is not None
        truth = stats.norm.cdf(stats.norm.ppf(tail.fnr) + shift)
        assert tail.tnr.low <= truth <= tail.tnr.high
        assert tail.tnr.value == pytest.approx(truth, rel=0.35)


def test_too_few_members_have_no_tail() -> None:
    tails = judged(200, 1.0).estimates[0].tails
    assert [tail.fnr for tail in tails] == list(FPRS)
    assert [tail.tnr is None for tail in tails] == [False, False, True, True]
    assert tails[-1].reason == "200 members are too few"


def test_a_run_s_estimate_is_no_attack_on_the_page(tmp_path: Path) -> None:
    data = {"kind": "digits", "clients": 5, "holdout": 0.5, "partition": {"kind": "iid"}}
    attacks = {"run": ["membership/loss", "membership/model_level"], "shadow_models": 0}
    folder = run(small(data=data, privacy={"kind": "none"}, attacks=attacks), tmp_path / "run")
    found = {one.question: one for one in run_attacks(folder)}
    assert set(found) == {"membership", "model_level"}
    assert set(found["membership"].rounds_by_attack()) == {"membership/loss"}
    page = " ".join(write_report([folder], folder.path / "report.html").read_text(encoding="utf-8").split())
    assert "Estimate of what shadow models would find" in page
    assert "an estimate, no bound" in page
