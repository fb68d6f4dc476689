import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pool_of_models import random_evidence
from scipy import stats

from attacks.membership import Evidence
from attacks.membership.lira import Lira
from privfl.errors import ConfigError
from privfl.learning.tasks.classification import CLASSIFICATION

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
