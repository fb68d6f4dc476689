import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from pool_of_models import random_evidence
from scipy import stats

from attacks.membership import Evidence
from attacks.membership.lira import Lira, over_queries
from privfl.errors import ConfigError
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.running.queries import Answers, QuerySignals

FloatArray = NDArray[np.float64]
LIRA = Lira(kind="membership/lira")


def pooled(sides: list[FloatArray]) -> float:
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in sides)
    return math.sqrt(squares / sum(len(x) - 1 for x in sides))


def by_loop(evidence: Evidence) -> dict[str, FloatArray]:
    """The paper's algorithm, one example at a time; needs two shadows on either side of each."""
    target = CLASSIFICATION.confidence(evidence.logits_NC, evidence.labels_N)
    shadow = CLASSIFICATION.confidence(evidence.shadow_logits_SNC, evidence.labels_N)
    inside = [shadow[evidence.shadow_member_SN[:, n], n] for n in range(len(target))]
    outside = [shadow[~evidence.shadow_member_SN[:, n], n] for n in range(len(target))]
    spread_in, spread_out = pooled(inside), pooled(outside)
    rows = []
    for value, x, z in zip(target, inside, outside, strict=True):
        own_in, own_out = x.std(ddof=1), z.std(ddof=1)
        rows.append(
            (
                stats.norm.logpdf(value, x.mean(), own_in) - stats.norm.logpdf(value, z.mean(), own_out),
                stats.norm.logpdf(value, x.mean(), spread_in) - stats.norm.logpdf(value, z.mean(), spread_out),
                (value - z.mean()) / own_out,
                (value - z.mean()) / spread_out,
            )
        )
    names = ("online", "online, fixed variance", "offline", "offline, fixed variance")
    return dict(zip(names, np.array(rows).T, strict=True))


def test_vectorised_equals_the_loop() -> None:
    evidence = random_evidence(16)
    found, expected = LIRA.score(evidence), by_loop(evidence)
    assert list(found) == list(expected)
    for variant, scores_N in found.items():
        np.testing.assert_allclose(scores_N, expected[variant], atol=1e-10, rtol=1e-10)


def test_offline_is_one_sided() -> None:
    # An output far less confident than without the example is the weakest evidence, not the strongest.
    evidence = random_evidence(8)
    shift = np.zeros_like(evidence.logits_NC)
    shift[np.arange(len(shift)), evidence.labels_N] = 50
    for variant in ("offline", "offline, fixed variance"):
        less = LIRA.score(replace(evidence, logits_NC=evidence.logits_NC - shift))[variant]
        more = LIRA.score(replace(evidence, logits_NC=evidence.logits_NC + shift))[variant]
        assert less.max() < -2 < 2 < more.min()


def test_offline_does_not_look_at_shadows_that_trained_on_the_example() -> None:
    evidence = random_evidence(8)
    changed = evidence.shadow_logits_SNC.copy()
    changed[evidence.shadow_member_SN] += np.random.default_rng(0).normal(size=(changed.shape[-1],)).astype(np.float32)
    for variant in ("offline", "offline, fixed variance"):
        np.testing.assert_array_equal(
            LIRA.score(evidence)[variant], LIRA.score(replace(evidence, shadow_logits_SNC=changed))[variant]
        )


def two_class(target: list[float], shadows: list[list[float]], member: list[list[bool]]) -> Evidence:
    """Two classes and the label 0, so that the stable logit is the first logit itself."""

    def logits(values: list[float] | list[list[float]]) -> NDArray[np.float32]:
        first = np.asarray(values, dtype=np.float32)
        return np.stack([first, np.zeros_like(first)], axis=-1)

    shape = (len(shadows), 1, 2)
    return Evidence(
        np.zeros(len(target), dtype=np.int64),
        logits(target),
        logits(shadows),
        np.array(member),
        np.zeros(1, dtype=np.int64),
        np.zeros((1, 2), dtype=np.float32),
        np.zeros(shape, dtype=np.float32),
    )


def test_an_example_with_one_shadow_on_a_side_takes_the_fixed_variance_there() -> None:
    # Example 0: out {0, 2}, in {5}; example 1: out {10, 14}, in {15}. Pooled out: (2 + 8) / 2 = 5; in: no spread within.
    evidence = two_class([1.0, 12.0], [[0, 10], [2, 14], [5, 15]], [[False, False], [False, False], [True, True]])
    found = LIRA.score(evidence)
    np.testing.assert_allclose(found["offline, fixed variance"], [0.0, 0.0], atol=1e-12)
    spread_in = np.var([5, 15])  # the spread over examples stands in
    expected = stats.norm.logpdf(1, 5, spread_in**0.5) - stats.norm.logpdf(1, 1, 2**0.5)
    assert found["online"][0] == pytest.approx(expected)
    assert found["online, fixed variance"][0] == pytest.approx(
        stats.norm.logpdf(1, 5, spread_in**0.5) - stats.norm.logpdf(1, 1, 5**0.5)
    )


def test_an_example_that_no_shadow_left_out_is_shifted_by_the_average_gap() -> None:
    # Example 1 is in every shadow: its out-mean is its in-mean minus the gap, (5 + 9 + 11 + 13)/4 − (1 + 3)/2 = 7.5.
    evidence = two_class([1.0, 4.0], [[1, 9], [3, 11], [5, 13]], [[False, True], [False, True], [True, True]])
    found = LIRA.score(evidence)["offline, fixed variance"]
    assert found[1] == pytest.approx((4 - (11 - 7.5)) / 2**0.5)


def test_shadows_of_one_side_only_are_refused() -> None:
    evidence = two_class([1.0, 4.0], [[1, 9], [3, 11]], [[True, True], [True, True]])
    with pytest.raises(ConfigError, match=r"attacks\.shadow_models"):
        LIRA.score(evidence)


# --- several queries of each example ----------------------------------------------------------------------------------


class Held:
    """Answers in memory, as those of a file."""

    def __init__(self, answers_QN: FloatArray) -> None:
        self.answers_QN, self.shape = answers_QN, answers_QN.shape

    def __getitem__(self, where: Any) -> FloatArray:
        return np.asarray(self.answers_QN[where])


def held(target_QN: FloatArray, shadow_SQN: FloatArray) -> QuerySignals:
    return QuerySignals(cast("Answers", Held(target_QN)), [cast("Answers", Held(one)) for one in shadow_SQN])


def test_one_query_is_the_example_itself_and_several_are_averaged() -> None:
    evidence = random_evidence(8)
    target_N, shadow_SN = evidence.signals.target_N, evidence.signals.shadow_SN
    plain = Lira(kind="membership/lira").score(evidence)
    once = over_queries(held(target_N[None], shadow_SN[:, None]), evidence.shadow_member_SN, 1)
    draw = np.random.default_rng(0)
    other_N, others_SN = (values + draw.normal(size=values.shape) for values in (target_N, shadow_SN))
    second = over_queries(held(other_N[None], others_SN[:, None]), evidence.shadow_member_SN, 1)
    signals = held(np.stack([target_N, other_N]), np.stack([shadow_SN, others_SN], 1))
    both = over_queries(signals, evidence.shadow_member_SN, 2)
    assert list(both) == [*plain, "multivariate, fixed covariance"]
    for variant, scores_N in plain.items():
        assert once[variant] == pytest.approx(scores_N, rel=1e-12)
        assert both[variant] == pytest.approx((once[variant] + second[variant]) / 2, rel=1e-9)
    assert once["multivariate, fixed covariance"] == pytest.approx(plain["online, fixed variance"], rel=1e-4, abs=1e-4)


def test_the_multivariate_ratio_is_that_of_two_normal_vectors() -> None:
    """One covariance for each side, pooled within examples; the reference loops over them."""
    draw = np.random.default_rng(3)
    shadows, candidates, queries = 12, 40, 3
    shadow_SQN, target_QN = draw.normal(size=(shadows, queries, candidates)), draw.normal(size=(queries, candidates))
    shadow_SQN[:, 1] += shadow_SQN[:, 0]
    member_SN = draw.random((shadows, candidates)) < 0.5
    found = over_queries(held(target_QN, shadow_SQN), member_SN, queries)["multivariate, fixed covariance"]
    logs = []
    for taken_SN in (member_SN, ~member_SN):
        away, freedom, means = [], 0, []
        for n in range(candidates):
            own_SQ = shadow_SQN[taken_SN[:, n], :, n]
            means.append(own_SQ.mean(0))
            away.append(own_SQ - means[-1])
            freedom += len(own_SQ) - 1
        together = np.concatenate(away)
        covariance = together.T @ together / freedom
        logs.append([stats.multivariate_normal.logpdf(target_QN[:, n], means[n], covariance) for n in range(candidates)])
    assert found == pytest.approx(np.array(logs[0]) - logs[1], rel=1e-4, abs=1e-4)
    # Queries that are one and the same are no division by zero.
    same = over_queries(held(target_QN[[0, 0]], shadow_SQN[:, [0, 0]]), member_SN, 2)
    assert np.isfinite(same["multivariate, fixed covariance"]).all()
