"""Subjects: persons with several records, of whom all or none were trained on, judged by the mean score of their records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import privfl
from privfl.errors import DataError

SUBJECTS, RECORDS = 1500, 4


def scores(subjects: bool = True) -> dict[str, Any]:
    """Scores that are normal, .5 higher for members, of four records of each subject in a random order."""
    generator = np.random.default_rng(0)
    member_J = generator.random(SUBJECTS) < 0.5
    subject_N = generator.permutation(np.repeat(np.arange(SUBJECTS), RECORDS))
    score_N = generator.normal(size=len(subject_N)) + 0.5 * member_J[subject_N]
    named = {"subject": np.array([f"person {one}" for one in subject_N])} if subjects else {}
    return {"member": member_J[subject_N].astype(np.int64), "mine": score_N, **named}


def test_the_mean_of_four_records_finds_what_the_closed_form_says(tmp_path: Path) -> None:
    """AUC Φ(µ √r / √2), with 95 % intervals: one of two fails for one seed of ten; these are at 99.99 %."""
    for subjects, records in ((True, RECORDS), (False, 1)):
        found = privfl.audit(scores(subjects), out=tmp_path / "page" if subjects else None)
        (one,) = found.attacks
        expected = stats.norm.cdf(0.5 * np.sqrt(records) / np.sqrt(2))
        assert abs(one.auc.value - expected) < (one.auc.high - one.auc.low) / 2 * 1.99
        assert found.members + found.nonmembers == SUBJECTS * (1 if subjects else RECORDS)
        assert found.records == (SUBJECTS * RECORDS if subjects else None)
    assert "1,500 subjects with 6,000 records" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")


def test_groups_are_of_subjects() -> None:
    given = scores()
    given["group"] = np.where(np.char.endswith(given["subject"], "7"), "seven", "other")
    found = privfl.audit(given)
    (grouping,) = [one for one in found.groupings if one.by == "group"]
    assert [one.group for one in grouping.groups] == ["other", "seven"]
    assert sum(one.members + one.nonmembers for one in grouping.groups) == SUBJECTS


def test_predictions_are_attacked_record_by_record_and_judged_by_subject() -> None:
    given = scores()
    given["confidence"] = given.pop("mine")
    found = privfl.audit(given, "membership/loss")
    assert found.members + found.nonmembers == SUBJECTS
    assert found.attacks[0].auc.low > 0.65


@pytest.mark.parametrize("name", ["member", "group"])
def test_a_subject_in_two_kinds_is_refused(name: str) -> None:
    given = scores()
    given["group"] = np.zeros(len(given["member"]), np.int64)
    given[name] = given[name].copy()
    given[name][5] = 1 - given[name][5]
    with pytest.raises(DataError, match=rf"subject 'person \d+' has records that differ in '{name}'; a subject") as raised:
        privfl.audit(given)
    assert len(str(raised.value).splitlines()) == 1


def test_subjects_must_be_named() -> None:
    for subject, why in ((np.zeros(3), "'subject' has the shape"), (np.zeros(6000, complex), "'subject' holds complex128")):
        with pytest.raises(DataError, match=why):
            privfl.audit({**scores(), "subject": subject})
