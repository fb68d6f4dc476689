"""Attribute inference: nothing beyond imputation if the label reveals the attribute, a gap if a model memorised it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from attacks._run import run_attacks
from attacks.inference.attribute import Attribute
from privfl.auditing.questions._shares import difference, paired_difference
from privfl.auditing.questions.attribute import AttributeClaim, AttributeFinding
from privfl.errors import ConfigError, ItemError
from privfl.loading import loads
from privfl.report import attacks_tables, write_report
from privfl.running.knowledge import Knowledge
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder

ATTACK = {"kind": "inference/attribute", "columns": [30]}
TABLE: dict[str, Any] = {
    "name": "attributes",
    "rounds": 5,
    "data": {"kind": "own_attacks.attributes", "clients": 4, "holdout": 0.5},
    "model": {"kind": "mlp", "hidden": [128]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 20, "batch_size": 16, "lr": 0.2},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "secure_sum"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": [ATTACK], "shadow_models": 0},
}


def attacked(path: Path, **changes: Any) -> tuple[RunFolder, AttributeFinding]:
    folder = run(loads({**TABLE, **changes}), path)
    (found,) = run_attacks(folder)
    assert isinstance(found, AttributeFinding)
    return folder, found


def test_an_attribute_that_the_label_reveals_is_imputed(tmp_path: Path) -> None:
    """A model that generalises knows no more than the label: the attack is right as often as imputation.

    At 99.9 % for both, so that one seed of 500 fails by chance.
    """
    training = {"local_epochs": 1, "batch_size": 16, "lr": 0.05}
    _, found = attacked(tmp_path / "run", data={**TABLE["data"], "label": "reveals"}, training=training)
    (record,) = found.attacks
    assert (record.columns, record.values) == ([30], 2)
    assert record.imputation.members.value > 0.85
    (guess,) = [one for one in record.guesses if one.variant == "confidence"]
    assert guess.right.members.value > 0.85
    for one in (guess.over_imputation, guess.right.gap):
        # 3.29 / 1.96 times as wide as the 95 % interval.
        assert abs(one.value) <= (one.high - one.low) / 2 * 1.68


def test_an_attribute_that_was_memorised_is_found_in_members_alone(tmp_path: Path) -> None:
    """The label is a coin, so that imputation guesses; the model fits it on members by all their inputs."""
    folder, found = attacked(tmp_path / "run", data={**TABLE["data"], "label": "coin"})
    (record,) = found.attacks
    assert record.imputation.members.low < 0.55
    guesses = {one.variant: one for one in record.guesses}
    assert list(guesses) == ["confidence", "confidence and prior", "confidence and imputation"]
    for one in (guesses["confidence"], guesses["confidence and prior"]):
        assert one.right.gap.low > 0
        assert one.over_imputation.low > 0
        assert one.right.nonmembers.low < 0.5 < one.right.nonmembers.high
    assert RunFolder.open(folder.path).findings == (found,)
    assert run_attacks(folder) == (found,)
    page = write_report([folder], folder.path / "report.html").read_text(encoding="utf-8")
    assert "<h3>Attribute, by the external adversary</h3>" in page
    assert "in column 30 and has 2 values" in page
    two = write_report([folder, folder], folder.path.parent / "two.html").read_text(encoding="utf-8")
    assert "attribute of a member named rightly" in two
    assert "attribute, by the external adversary" in str(attacks_tables(folder)[0].title)


def test_the_attack_is_not_given_the_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Knowledge] = []
    original = Attribute.run

    def look(self: Attribute, view: Any, knowledge: Knowledge) -> AttributeClaim:
        told.append(knowledge)
        return original(self, view, knowledge)

    monkeypatch.setattr(Attribute, "run", look)
    attacked(tmp_path / "run", rounds=1, training={"local_epochs": 1, "batch_size": 16, "lr": 0.1})
    (knowledge,) = told
    assert not knowledge.candidates.x[:][:, 30].any()
    assert knowledge.population.x[:][:, 30].any()
    assert not len(knowledge.shadows.member_SN)
    assert knowledge.measures._candidates is knowledge.candidates  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("columns", "data", "why"),
    [
        ([], {}, r"columns = \[\], must be different places .* from 0 to 30; set attacks.run="),
        ([31], {}, r"columns = \[31\], must be"),
        ([3, 3], {}, r"columns = \[3, 3\], must be"),
        ([0], {"kind": "digits"}, r"needs a table, and these inputs have the shape \(1, 8, 8\)"),
    ],
)
def test_columns_that_are_none_are_refused(columns: list[int], data: dict[str, Any], why: str, tmp_path: Path) -> None:
    changes = {"data": {**TABLE["data"], **data}, "attacks": {"run": [{**ATTACK, "columns": columns}], "shadow_models": 0}}
    with pytest.raises(ConfigError, match=why) as raised:
        run(loads({**TABLE, **changes}), tmp_path / "run")
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_number_is_no_attribute_with_few_values(tmp_path: Path) -> None:
    attacks = {"run": [{**ATTACK, "columns": [0]}], "shadow_models": 0}
    folder = run(loads({**TABLE, "rounds": 1, "attacks": attacks}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"columns = \[0\], which have 1000 different values .* must be from 2 to 64"):
        run_attacks(folder)


def test_a_claim_of_another_form_is_refused() -> None:
    columns, one = np.array([0]), np.zeros((3, 1))
    with pytest.raises(ItemError, match="guessed nothing"):
        AttributeClaim(columns, one, {}).checked("x", 3)
    with pytest.raises(ItemError, match=r"have the shape \(2, 1\), must be \(3, 1\)"):
        AttributeClaim(columns, one, {"v": one[:2]}).checked("x", 3)
    arrays = AttributeClaim(columns, one, {"v": one}).checked("x", 3).arrays("x")
    assert AttributeClaim.from_arrays("x", arrays).arrays("x") == arrays


# --- intervals of differences -----------------------------------------------------------------------------------------


def test_intervals_of_differences_cover() -> None:
    """2,000 samples each: a coverage of 95 % lies above 93.5 % but for one seed in a thousand."""
    generator, covered, paired = np.random.default_rng(0), [], []
    for _ in range(2000):
        first, second = generator.random(60) < 0.8, generator.random(45) < 0.7
        found = difference(first, second)
        covered.append(found.low <= 0.1 <= found.high)
        both = generator.random(60)
        found = paired_difference(both < 0.8, (both < 0.6) | (both > 0.9))
        paired.append(found.low <= 0.1 <= found.high)
    assert stats.binomtest(sum(covered), 2000, 0.95, alternative="less").pvalue > 0.001
    assert stats.binomtest(sum(paired), 2000, 0.95, alternative="less").pvalue > 0.001
    same = np.ones(20, bool)
    assert paired_difference(same, same).low < 0 < paired_difference(same, same).high
    assert difference(same, ~same).value == 1.0
