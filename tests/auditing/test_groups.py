"""Figures by group: they are the definition's, their intervals hold together, and small groups do not widen them for all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from privfl.auditing import auc
from privfl.auditing.evaluation import BestScores, best_scores
from privfl.auditing.groups import MOST, by_group


def scores_of(seed: int, shifts: list[float], each: int) -> tuple[BestScores, np.ndarray, np.ndarray]:
    """Normal scores; members of a group are shifted by its own amount."""
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(len(shifts)), each)
    member_N = rng.random(len(group_N)) < 0.5
    scores_N = rng.normal(size=len(group_N)) + member_N * np.array(shifts)[group_N]
    return BestScores("a", "x", scores_N, np.ones(len(group_N), bool)), member_N, group_N


def test_figures_are_those_of_the_definition() -> None:
    best, member_N, group_N = scores_of(0, [0.0, 1.0, 3.0], 800)
    found = by_group(best, member_N, group_N)
    # 1,200 non-members or so resolve 1 %; the threshold is theirs together.
    threshold = np.sort(best.scores_N[~member_N])[::-1][int(0.01 * (~member_N).sum())]
    for one in found:
        here_N = group_N == one.group
        assert one.auc is not None
        assert one.tpr is not None
        assert one.tpr.tpr is not None
        assert one.auc.value == auc(best.scores_N[here_N], member_N[here_N]).value
        assert one.auc.level == one.tpr.tpr.level == pytest.approx(1 - 0.05 / 6)
        assert one.tpr.tpr.value == pytest.approx((best.scores_N[here_N & member_N] > threshold).mean(), abs=1e-12)
        assert (one.members, one.nonmembers) == (np.sum(here_N & member_N), np.sum(here_N & ~member_N))
    areas = [one.auc.value for one in found if one.auc is not None]
    assert areas == sorted(areas)


def test_all_intervals_hold_together() -> None:
    # 60 samples. If they held together in 95 % only, more than 8 would fail with a probability of 0.3 %.
    shifts, failed = [0.0, 0.5, 1.0, 2.0], 0
    exact = [(stats.norm.cdf(shift / np.sqrt(2)), stats.norm.sf(stats.norm.ppf(0.99) - shift)) for shift in shifts]
    for seed in range(60):
        best, member_N, group_N = scores_of(seed, shifts, 600)
        found = by_group(best, member_N, group_N)
        ends = [(one.auc, one.tpr.tpr) for one in found if one.tpr is not None]
        assert len(ends) == 4
        failed += not all(
            interval is not None and interval.low <= truth <= interval.high
            for pair, truths in zip(ends, exact, strict=True)
            for interval, truth in zip(pair, truths, strict=True)
        )
    assert failed <= 8


def test_a_group_of_one_kind_has_no_auc() -> None:
    best, member_N, group_N = scores_of(1, [1.0, 1.0, 1.0], 500)
    member_N[group_N == 0], member_N[group_N == 1] = True, False
    first, second, third = by_group(best, member_N, group_N)
    assert first.auc is None
    assert first.tpr is not None
    assert (second.auc, second.tpr) == (None, None)
    assert third.auc is not None


def test_only_the_largest_groups_are_measured() -> None:
    best, member_N, group_N = scores_of(2, [1.0] * (MOST + 20), 20)
    group_N[-10:] = 0
    found = by_group(best, member_N, group_N)
    assert len(found) == MOST
    assert {one.group for one in found} >= {0}
    assert MOST + 19 not in {one.group for one in found}


def test_the_candidates_that_chose_the_attack_are_not_measured() -> None:
    rng = np.random.default_rng(3)
    member_N = rng.random(1000) < 0.5
    scores = {"a": {"x": rng.normal(size=1000), "y": rng.normal(size=1000) + member_N}}
    best = best_scores(scores, member_N, np.random.default_rng(4))
    found = by_group(best, member_N, np.arange(1000) % 2)
    assert best.variant == "y"
    assert sum(one.members + one.nonmembers for one in found) == 500 == best.measured_N.sum()
