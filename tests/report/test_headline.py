"""What the headline says of an attack: no more than the sample can bear."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import Made, make

from privfl.auditing.questions.membership import BestAttack, MembershipFinding, RateAt
from privfl.records import Interval
from privfl.report.headline import headlines
from privfl.report.run_records import RunRecords
from privfl.report.wording import epsilon


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.0068, 0.0090, 0.0117, "The interval contains that figure: no leak is shown."),
        # A threshold set for 1 % on 6,000 non-members may be one for 1.29 %: 1.06 % is not beyond chance.
        (0.0106, 0.0133, 0.0165, "the threshold itself may be off by as much: no leak is shown."),
        (0.0140, 0.0170, 0.0204, "the model leaks who was a member."),
        (0.0040, 0.0060, 0.0090, "This attack does worse than guessing."),
    ],
)
def test_verdict(low: float, value: float, high: float, said: str, tmp_path: Path) -> None:
    run = RunRecords.read(make(tmp_path / "run", Made()))
    (finding,) = run.findings
    rate = RateAt(fpr=0.01, tpr=Interval(value=value, low=low, high=high, n=6000))
    best = BestAttack(
        attack="membership/loss",
        variant="loss",
        candidates=12_000,
        auc=Interval(value=0.5, low=0.49, high=0.51, n=12_000),
        rates=[rate],
        headline_fpr=0.01,
        roc_fpr=[0.0, 1.0],
        roc_tpr=[0.0, 1.0],
        epsilon_lower=0.0,
        epsilon_ceiling=5.8,
        level=0.95,
        delta=1e-5,
    )
    changed = replace(run, findings=(finding.model_copy(update={"best": best}),))
    (headline,) = [one for one in headlines(changed) if "Best attack" in one.label]
    assert said in headline.sentence.replace("\u00a0", " ").replace("\u202f", " ")


def test_the_measured_epsilon_comes_with_the_most_that_could_be_shown(tmp_path: Path) -> None:
    run = RunRecords.read(make(tmp_path / "run", Made()))
    (finding,) = run.findings
    assert isinstance(finding, MembershipFinding)
    assert run.result.privacy is not None
    promised = run.result.privacy.attack_epsilon
    for ceiling, said in [(promised / 2, "cannot contradict the promise"), (promised * 2, "and never more")]:
        best = finding.best.model_copy(update={"epsilon_lower": promised / 4, "epsilon_ceiling": ceiling})
        changed = replace(run, findings=(finding.model_copy(update={"best": best}),))
        (headline,) = [one for one in headlines(changed) if "Measured" in one.label]
        assert f"ε ≥ {epsilon(ceiling)}" in headline.sentence.replace("\u00a0", " ").replace("\u202f", " ").replace(
            "\u2060", ""
        )
        assert said in headline.sentence
