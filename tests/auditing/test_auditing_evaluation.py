import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from privfl.auditing import PrivacyCurve, best_of, evaluate
from privfl.auditing.evaluation import FPRS, headline_fpr
from privfl.errors import DataError

FloatArray = NDArray[np.float64]
N = 4000
MEMBER = np.random.default_rng(0).random(N) < 0.5
STRONG = np.random.default_rng(1).normal(size=N) + 3.0 * MEMBER
WEAK = np.random.default_rng(2).normal(size=N) + 0.2 * MEMBER
SCORES = {"membership/a": {"x": WEAK, "y": STRONG}, "membership/b": {"x": -STRONG}}
AT_1_PERCENT = FPRS.index(0.01)
PROMISE = PrivacyCurve((0.5, 1.0), (1e-3, 1e-5), 1.0, 1e-5)


def test_every_variant_is_reported_in_order_and_the_best_is_found() -> None:
    found = evaluate(SCORES, MEMBER, None, np.random.default_rng(0))
    names = [(one.attack, one.variant) for one in found.variants]
    assert names == [("membership/a", "x"), ("membership/a", "y"), ("membership/b", "x")]
    assert (found.best.attack, found.best.variant) == ("membership/a", "y")
    assert (found.members + found.nonmembers, found.best.chosen_on, found.best.measured_on) == (N, N // 2, N // 2)
    assert found.dp_bound is None
    assert found.best.contradicts_promise is None
    weak, strong, flipped = (one.auc.value for one in found.variants)
    assert flipped < 0.1 < 0.5 < weak < 0.9 < strong


def test_a_broken_promise_shows_and_a_kept_one_does_not() -> None:
    broken = evaluate(SCORES, MEMBER, PROMISE, np.random.default_rng(0))
    assert broken.best.contradicts_promise is True
    assert broken.variants[1].operating_points[AT_1_PERCENT].violated is True
    assert broken.variants[0].operating_points[AT_1_PERCENT].violated is False
    kept = evaluate({"membership/a": {"x": WEAK}}, MEMBER, PROMISE, np.random.default_rng(0))
    assert kept.best.contradicts_promise is False
    assert [point.violated for point in kept.variants[0].operating_points] == [False, False, False, None]


def test_many_attacks_must_not_find_a_violation_by_trying_often() -> None:
    # Randomised response of ε = 1.64 under a promise of 1: enough for one attack, not for one of forty.
    rng = np.random.default_rng(5)
    scores = (MEMBER ^ (rng.random(N) < special.expit(-1.64))) + rng.random(N) / 2
    promise = PrivacyCurve((1.0,), (0.0,), 1.0, 0.0)
    for attacks, expected in [(1, True), (40, False)]:
        found = evaluate({"a": {str(i): scores for i in range(attacks)}}, MEMBER, promise, np.random.default_rng(0))
        assert found.variants[0].operating_points[AT_1_PERCENT].violated is expected


def test_the_bound_is_drawn_and_stands_beside_each_rate() -> None:
    found = evaluate(SCORES, MEMBER, PROMISE, np.random.default_rng(0))
    assert found.dp_bound is not None
    assert len(found.dp_bound["fpr"]) == len(found.dp_bound["tpr"])
    assert found.variants[0].operating_points[AT_1_PERCENT].allowed == pytest.approx(np.exp(0.5) * 0.01 + 1e-3)


def test_json_is_plain_and_repeatable() -> None:
    first, again = (
        json.dumps(evaluate(SCORES, MEMBER, PROMISE, np.random.default_rng(7)).to_dict(), allow_nan=False) for _ in range(2)
    )
    assert first == again
    table = json.loads(first)
    points = table["variants"][1]["operating_points"]
    assert points[0]["tpr"]["method"] == "binomial threshold, Beta TPR"
    assert points[3]["tpr"] is None
    assert points[3]["reason"].startswith("not resolvable")


def test_the_choice_does_not_see_the_half_that_is_measured() -> None:
    chosen = np.zeros(N, dtype=bool)
    chosen[np.random.default_rng(3).permutation(N)[: N // 2]] = True
    # Perfect where it is measured, useless where the choice is made: must not be chosen.
    trap = np.where(chosen, np.random.default_rng(4).normal(size=N), MEMBER * 10.0)
    best = best_of({"trap": {"x": trap}, "fair": {"x": STRONG}}, MEMBER, None, np.random.default_rng(3))
    assert best.attack == "fair"
    assert best.measured_on == np.count_nonzero(~chosen)
    # And the reverse: what shone on the choosing half is reported as it does on the other.
    reverse = np.where(chosen, MEMBER * 10.0, np.random.default_rng(4).normal(size=N))
    best = best_of({"trap": {"x": reverse}, "fair": {"x": STRONG}}, MEMBER, None, np.random.default_rng(3))
    assert best.attack == "trap"
    assert best.auc.low < 0.5 < best.auc.high
    assert best.epsilon.value < 0.3


def test_one_attack_alone_is_measured_on_all_since_nothing_was_chosen() -> None:
    found = evaluate({"a": {"x": STRONG}}, MEMBER, None, np.random.default_rng(0))
    assert (found.best.chosen_on, found.best.measured_on, found.best.members) == (0, N, found.members)
    # The headline's figure and the table's are one.
    assert found.best.operating_points == found.variants[0].operating_points
    assert found.best.operating_point.fpr == 0.01
    assert found.best.curve == found.variants[0].curve
    assert found.best.auc == found.variants[0].auc


def test_few_candidates_are_chosen_by_area() -> None:
    keep = slice(0, 200)
    best = best_of({"a": {"weak": WEAK[keep], "strong": STRONG[keep]}}, MEMBER[keep], None, np.random.default_rng(0))
    assert best.variant == "strong"
    assert best.operating_point.tpr is None
    assert best.operating_point.reason is not None
    assert best.operating_point.reason.endswith("100 needed")


@pytest.mark.parametrize(
    ("nonmembers", "fpr"), [(5, 0.1), (100, 0.1), (199, 0.1), (200, 0.05), (999, 0.05), (1000, 0.01), (1_000_000, 0.01)]
)
def test_the_headline_is_at_one_percent_or_else_at_the_lowest_rate_that_is_resolved(nonmembers: int, fpr: float) -> None:
    assert headline_fpr(nonmembers) == fpr


def test_where_one_percent_is_not_resolved_the_choice_is_by_the_headline_s_rate() -> None:
    rng = np.random.default_rng(8)
    member = np.arange(1000) % 2 == 0
    # One is sure of a third of the members and knows nothing of the others; the other has the larger area but is never sure.
    sure = np.where(member & (rng.random(1000) < 1 / 3), 9.0, 0.0) + rng.normal(size=1000)
    vague = member + 2 * (rng.random(1000) < 0.5) + rng.random(1000)
    vague = np.where(rng.random(1000) < 0.12, 9.0 + rng.random(1000), vague)
    found = evaluate({"a": {"sure": sure, "vague": vague}}, member, None, rng)
    areas = {one.variant: one.auc.value for one in found.variants}
    assert areas["vague"] > areas["sure"]
    assert (found.best.variant, found.best.headline_fpr) == ("sure", 0.05)
    tpr = found.best.operating_point.tpr
    assert tpr is not None
    assert tpr.low < 1 / 3 + 0.05 * 2 / 3 < tpr.high


@pytest.mark.parametrize(("scores", "member"), [({}, MEMBER), ({"a": {"x": np.zeros(2)}}, np.array([True, False]))])
def test_nothing_to_evaluate_is_refused(scores: dict[str, dict[str, FloatArray]], member: NDArray[np.bool_]) -> None:
    with pytest.raises(DataError):
        evaluate(scores, member, None, np.random.default_rng(0))
