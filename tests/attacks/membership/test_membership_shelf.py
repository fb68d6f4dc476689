"""The contract of every membership attack on outputs; each item of the shelf is found by itself."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from pool_of_models import digits, evidence_of, overfitted, random_evidence, untrained

from attacks.membership import MembershipAttack
from privfl.auditing import auc, one_run_audit
from privfl.errors import ConfigError
from privfl.shelves import SHELVES

SHELF = SHELVES["attacks.run"]
NAMES = [name for name in SHELF.names() if issubclass(SHELF.find(name), MembershipAttack)]
EVERY = pytest.mark.parametrize("name", NAMES)
WITH_SHADOWS = pytest.mark.parametrize("name", [name for name in NAMES if SHELF.find(name).least_shadows])


def build(name: str) -> MembershipAttack:
    return cast("MembershipAttack", SHELF.find(name).model_validate({"kind": name}))


def test_the_shelf_holds_what_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "attacks.md").read_text(encoding="utf-8")
    for name in SHELF.names():
        assert f"| `{name}` |" in page


@EVERY
def test_scores_are_finite_one_per_candidate_and_repeatable(name: str) -> None:
    evidence = random_evidence(6)
    scores = build(name).score(evidence)
    assert scores
    for variant, scores_N in build(name).score(evidence).items():
        assert scores_N.shape == evidence.labels_N.shape
        assert scores_N.dtype == np.float64
        assert np.isfinite(scores_N).all()
        np.testing.assert_array_equal(scores_N, scores[variant])


@EVERY
def test_a_model_that_overfits_is_found_out(name: str) -> None:
    # Also the sign: a flipped score would be below one half.
    evidence, member_N = overfitted()
    for variant, scores_N in build(name).score(evidence).items():
        estimate = auc(scores_N, member_N)
        assert estimate.low > 0.5, variant


@WITH_SHADOWS
def test_planted_mislabelled_examples_are_found_out(name: str) -> None:
    evidence, member_N = overfitted()
    planted = digits().mislabelled_N
    for variant, scores_N in build(name).score(evidence).items():
        # The entropy does not look at labels, right or wrong.
        assert variant == "entropy" or auc(scores_N[planted], member_N[planted]).value > 0.9, variant


@EVERY
def test_a_model_that_saw_nothing_gives_nothing_away(name: str) -> None:
    # At level 99.9 %, so that all its variants together fail by chance in less than one seed of a hundred.
    evidence, member_N = evidence_of(untrained, 8)
    for variant, scores_N in build(name).score(evidence).items():
        estimate = auc(scores_N, member_N, 0.999)
        assert estimate.low < 0.5 < estimate.high, variant
        assert one_run_audit(scores_N, member_N, level=0.999).value == 0, variant


@WITH_SHADOWS
def test_without_shadows_the_setting_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"attacks\.shadow_models = 0: .* needs at least {SHELF.find(name).least_shadows}"):
        build(name).score(random_evidence(0))


@EVERY
@pytest.mark.parametrize("shadows", [1, 2, 3])
def test_few_shadows_never_give_nan(name: str, shadows: int) -> None:
    for scores_N in build(name).score(random_evidence(max(shadows, build(name).least_shadows))).values():
        assert np.isfinite(scores_N).all()


@EVERY
def test_outputs_of_full_confidence_stay_finite_and_apart(name: str) -> None:
    # Logits of ±60 round to a probability of exactly 0 or 1 in single precision.
    evidence = random_evidence(6)
    loud = replace(evidence, logits_NC=20 * evidence.logits_NC, shadow_logits_SNC=20 * evidence.shadow_logits_SNC)
    for scores_N in build(name).score(loud).values():
        assert np.isfinite(scores_N).all()


@EVERY
def test_shadows_that_agree_exactly_stay_finite(name: str) -> None:
    evidence = random_evidence(4)
    same = replace(evidence, shadow_logits_SNC=np.repeat(evidence.shadow_logits_SNC[:1], 4, axis=0))
    for scores_N in build(name).score(same).values():
        assert np.isfinite(scores_N).all()


@EVERY
def test_the_order_of_shadows_and_of_candidates_does_not_matter(name: str) -> None:
    evidence = random_evidence(6)
    order = np.random.default_rng(1).permutation(6)
    swapped = replace(
        evidence,
        shadow_logits_SNC=evidence.shadow_logits_SNC[order],
        shadow_member_SN=evidence.shadow_member_SN[order],
        population_shadow_logits_SPC=evidence.population_shadow_logits_SPC[order],
    )
    for variant, scores_N in build(name).score(evidence).items():
        np.testing.assert_allclose(build(name).score(swapped)[variant], scores_N, rtol=1e-9)
