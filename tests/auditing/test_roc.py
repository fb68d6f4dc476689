import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats
from sklearn.metrics import roc_auc_score, roc_curve

from privfl.auditing import (
    auc,
    balanced_accuracy,
    best_balanced_accuracy,
    best_threshold,
    clopper_pearson,
    operating_point,
    roc,
)
from privfl.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def tied_scores(seed: int, n: int = 400) -> tuple[FloatArray, BoolArray]:
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.5
    return np.round(rng.normal(size=n) + member, 1), member


def test_roc_with_ties_equals_scikit_learn() -> None:
    scores, member = tied_scores(0)
    curve = roc(scores, member)
    fpr, tpr, thresholds = roc_curve(member, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr_T, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.tpr_T, tpr, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds_T, thresholds)


def test_equal_scores_are_one_step() -> None:
    member = np.arange(2000) % 2 == 0
    curve = roc(np.zeros(2000), member)
    assert curve.fpr_T.tolist() == curve.tpr_T.tolist() == [0, 1]
    assert auc(np.zeros(2000), member).value == 0.5
    point = operating_point(curve, 0.01)
    assert point.tpr is not None
    assert point.tpr.value == 0


def test_tpr_is_that_of_the_lowest_threshold_whose_fpr_is_allowed() -> None:
    # 1000 non-members, of which 10 are above 0 and the eleventh ties with 50 members.
    scores = np.concatenate([np.ones(10), np.zeros(1), -np.ones(989), np.full(30, 2.0), np.zeros(50), np.full(20, -2.0)])
    point = operating_point(roc(scores, np.arange(1100) >= 1000), 0.01)
    assert point.tpr is not None
    assert point.tpr.value == pytest.approx(0.3)
    # With at most ten non-members above the threshold it is 30 members, which is so in 58 % of samples; else all the tied too.
    assert stats.binomtest(30, 100).proportion_ci(0.95).low < point.tpr.low < stats.binomtest(30, 100).proportion_ci(0.9).low
    assert stats.binomtest(80, 100).proportion_ci(method="exact").low < point.tpr.high < 0.9


def test_equal_infinities_are_one_step() -> None:
    member = np.arange(40) % 2 == 0
    for scores in (np.full(40, np.inf), np.full(40, -np.inf), np.where(member, np.inf, -np.inf)):
        curve = roc(scores, member)
        assert len(curve.tpr_T) == 1 + len(np.unique(scores))
        assert auc(scores, member).value == (0.5 if len(np.unique(scores)) == 1 else 1.0)


@pytest.mark.parametrize(("shift", "count"), [(0.0, 1000), (1.0, 1000), (2.0, 1000), (2.0, 4000)])
@pytest.mark.parametrize("fpr", [0.01, 0.05])
def test_the_interval_of_a_tpr_covers_the_tpr_at_that_fpr(shift: float, count: int, fpr: float) -> None:
    """In 200 samples of Gaussian scores. An interval that covers in 95 % fails with a probability of 1e-4; the one at the
    sample's own threshold, which does not, is found.
    """
    rng, member = np.random.default_rng(0), np.arange(2 * count) < count
    truth = float(stats.norm.sf(stats.norm.isf(fpr) - shift))
    covered = conditional = 0
    for _ in range(200):
        point = operating_point(roc(rng.normal(size=2 * count) + shift * member, member), fpr)
        assert point.tpr is not None
        covered += point.tpr.low <= truth <= point.tpr.high
        low, high = clopper_pearson(round(point.tpr.value * count), count)
        conditional += bool(low <= truth <= high)
    least = stats.binom.ppf(1e-4, 200, 0.95)
    assert covered >= least
    assert shift == 0 or conditional < least


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 0.5))
def test_limits_hold_the_value_between_them(seed: int, fpr: float) -> None:
    curve = roc(*tied_scores(seed, 600))
    low, high = curve.limits([fpr], draws=40)
    assert 0 <= low[0] <= curve.tpr_T[curve.at(fpr)] + 1e-9
    assert curve.tpr_T[curve.at(fpr)] <= high[0] + 1e-9 <= 1 + 1e-9


@pytest.mark.parametrize(("nonmembers", "resolved"), [(999, False), (1000, True)])
def test_a_rate_that_the_sample_cannot_resolve_gets_no_figure(nonmembers: int, resolved: bool) -> None:
    scores = np.random.default_rng(0).normal(size=nonmembers + 50)
    point = operating_point(roc(scores, np.arange(nonmembers + 50) < 50), 0.01)
    assert (point.tpr is not None) == resolved
    assert (point.reason is None) == resolved
    if not resolved:
        assert point.reason == "not resolvable: 999 non-members, 1000 needed"


def test_clopper_pearson_equals_scipy() -> None:
    for k, n, level in [(0, 10, 0.95), (10, 10, 0.95), (3, 10, 0.9), (480, 500, 0.99)]:
        exact = stats.binomtest(k, n).proportion_ci(level, method="exact")
        assert [float(limit) for limit in clopper_pearson(k, n, level)] == pytest.approx([exact.low, exact.high], abs=1e-12)


def test_two_normals_give_the_known_area_and_the_known_rates() -> None:
    # Two independent 99.9 % intervals per figure; the error rate of the whole test is at most 0.5 %.
    n, mu = 100_000, 1.0
    rng = np.random.default_rng(0)
    member = np.arange(2 * n) < n
    scores = rng.normal(size=2 * n) + mu * member
    area = auc(scores, member, 0.999)
    assert area.low < special.ndtr(mu / math.sqrt(2)) < area.high
    curve = roc(scores, member)
    for fpr in (1e-2, 1e-3, 1e-4):
        point = operating_point(curve, fpr, 0.999)
        _, true_fpr_high = clopper_pearson(fpr * n, n, 0.999)
        true_fpr_low, _ = clopper_pearson(fpr * n, n, 0.999)
        assert point.tpr is not None
        assert point.tpr.low < special.ndtr(special.ndtri(true_fpr_high) + mu)
        assert point.tpr.high > special.ndtr(special.ndtri(true_fpr_low) + mu)
    for fpr in (1e-2, 1e-3):
        assert curve.tpr_T[curve.at(fpr)] == pytest.approx(special.ndtr(special.ndtri(fpr) + mu), rel=0.1)


def test_auc_and_its_interval_equal_the_loop_over_pairs() -> None:
    scores, member = tied_scores(1, 120)
    inside, outside = scores[member], scores[~member]
    wins = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in outside] for x in inside])
    per_member, per_nonmember = wins.mean(axis=1), wins.mean(axis=0)
    variance = per_member.var(ddof=1) / len(inside) + per_nonmember.var(ddof=1) / len(outside)
    value = wins.mean()
    estimate = auc(scores, member)
    assert estimate.value == pytest.approx(value, abs=1e-10)
    assert estimate.value == pytest.approx(roc_auc_score(member, scores), abs=1e-10)
    width = 1.959963984540054 * math.sqrt(variance) / (value * (1 - value))
    assert special.logit(estimate.high) - special.logit(estimate.low) == pytest.approx(2 * width, abs=1e-10)


def test_auc_interval_covers_the_truth() -> None:
    # 1,000 runs, so that a true coverage of 95 % shows as 92.7 to 97.1 % but for one test in a thousand.
    rng = np.random.default_rng(2)
    member = np.arange(120) < 50
    truth = special.ndtr(1 / math.sqrt(2))
    intervals = [auc(rng.normal(size=120) + member, member) for _ in range(1000)]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.927 <= covered <= 0.971


@pytest.mark.parametrize("separated", [np.arange(40.0), -np.arange(40.0)])
def test_perfect_separation_does_not_claim_certainty(separated: FloatArray) -> None:
    member = np.arange(40) >= 20
    estimate = auc(separated, member)
    assert estimate.value in (0.0, 1.0)
    assert estimate.high - estimate.low == pytest.approx(1 - 0.025 ** (1 / 20))


def test_one_member_still_gets_an_interval() -> None:
    estimate = auc(np.arange(10.0), np.arange(10) == 9)
    assert (estimate.low, estimate.high) == pytest.approx((0.025, 1.0))


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60))
@settings(max_examples=60, deadline=None)
def test_order_alone_counts_and_the_opposite_score_mirrors_the_area(drawn: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in drawn], dtype=float)
    member = np.array([is_member for _, is_member in drawn])
    if member.all() or not member.any():
        return
    curve, stretched = roc(scores, member), roc(np.exp(scores), member)
    np.testing.assert_array_equal(curve.tpr_T, stretched.tpr_T)
    assert auc(-scores, member).value == pytest.approx(1 - auc(scores, member).value)
    assert np.trapezoid(curve.tpr_T, curve.fpr_T) == pytest.approx(auc(scores, member).value)
    assert curve.tpr_T[0] == curve.fpr_T[0] == 0
    assert curve.tpr_T[-1] == curve.fpr_T[-1] == 1


def test_held_out_threshold_is_honest_on_noise_and_the_best_one_is_not() -> None:
    # Means of 300 runs with a standard error of about .0015: five of them.
    rng = np.random.default_rng(3)
    held_out, best = [], []
    for _ in range(300):
        scores, member, chosen = rng.normal(size=400), rng.random(400) < 0.5, rng.random(400) < 0.5
        held_out.append(balanced_accuracy(scores, member, chosen).value)
        best.append(best_balanced_accuracy(roc(scores, member)))
    assert abs(np.mean(held_out) - 0.5) < 0.01
    assert np.mean(best) > 0.53


def test_balanced_accuracy_interval_covers_the_truth() -> None:
    # A perfect rule for two normals has (TPR + TNR) / 2 = Φ(1/2); a threshold from the other half is almost it.
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(400):
        member, chosen = rng.random(1000) < 0.3, rng.random(1000) < 0.5
        scores = rng.normal(size=1000) + member
        estimate = balanced_accuracy(scores, member, chosen)
        threshold = best_threshold(roc(scores[chosen], member[chosen]))
        truth = (special.ndtr(1 - threshold) + special.ndtr(threshold)) / 2
        covered.append(estimate.low <= truth <= estimate.high)
    assert np.mean(covered) >= 0.95


def test_thinned_points_lie_on_the_curve() -> None:
    scores, member = tied_scores(5, 5000)
    curve = roc(scores, member)
    thin = curve.thinned(50)
    on_curve = set(zip(curve.fpr_T.tolist(), curve.tpr_T.tolist(), strict=True))
    assert set(zip(thin["fpr"], thin["tpr"], strict=True)) <= on_curve
    assert thin["fpr"][-1] == 1
    assert all(low <= tpr <= high for low, tpr, high in zip(thin["low"], thin["tpr"], thin["high"], strict=True))


@pytest.mark.parametrize(
    ("scores", "member", "message"),
    [
        ([0.0, math.nan], [True, False], "1 of 2 scores are NaN"),
        ([0.0, 1.0], [True, True], "2 members among 2"),
        ([0.0, 1.0], [False, False], "0 members among 2"),
        ([0.0], [True, False], r"shape \(1,\)"),
    ],
)
def test_bad_input_is_refused(scores: list[float], member: list[bool], message: str) -> None:
    with pytest.raises(DataError, match=message):
        roc(np.array(scores), np.array(member))


def test_of_thresholds_that_are_equally_good_the_highest_is_taken() -> None:
    # At 3 the rates are 1/3 and 0; at 2 they are 2/3 and 2/6, whose difference rounds to something else; at 1 it is 1/3 again.
    scores = np.array([3.0, 2.0, 1.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0])
    member = np.arange(9) < 3
    assert 3 / 3 - 4 / 6 > 1 / 3, "rounding would make a difference"
    assert best_threshold(roc(scores, member)) == 3.0
