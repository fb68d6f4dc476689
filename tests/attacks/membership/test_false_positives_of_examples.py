"""False positives of single examples: counts by shadow models that play the target, and scores that are calibrated for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from jinja2 import Environment
from pool_of_models import overfitted, random_evidence
from scipy import stats

from attacks.membership import BoolArray, Evidence, Signals
from attacks.membership.attack_r import AttackR
from attacks.membership.calibrated import Calibrated, played
from attacks.membership.lira import Lira
from attacks.membership.shokri import Shokri
from privfl.auditing.evaluation import FPRS
from privfl.auditing.false_positives import FalsePositives, example_rates
from privfl.auditing.questions import AttackClaim, Claims, Truth
from privfl.auditing.questions.membership import Membership, MembershipClaim
from privfl.errors import DataError
from privfl.report.blocks._membership_details import TEMPLATE, example_table
from privfl.report.wording import attack_name

LIRA, CALIBRATED = Lira(kind="membership/lira"), Calibrated(kind="membership/calibrated")


def test_counts_by_hand() -> None:
    # 100 examples, 20 models: example 0 has the highest score in each of the 10 that were not trained on it.
    out = (np.arange(20)[:, None] + np.arange(100)) % 2 == 0
    scores = np.random.default_rng(0).random((20, 100))
    scores[:, 0] += 10
    found = FalsePositives.of(scores, out)
    assert found.models_N.tolist() == [10] * 100
    assert found.accused_FN.sum(axis=1).tolist() == [int(1000 * fpr) for fpr in FPRS]
    assert found.accused_FN[:, 0].tolist() == [10, 10, 10, 1]
    rates = example_rates(found, 0.01)
    assert rates is not None
    assert (rates.pooled, rates.worst.value, rates.never, rates.models) == (0.01, 1.0, 0.99, 10)
    assert rates.worst.low == pytest.approx((0.025 / 100) ** (1 / 10))
    # The true deviation of 99 zeros and a one.
    assert rates.spread.value == pytest.approx(np.sqrt(0.01 * 0.99))


def test_the_largest_share_by_chance() -> None:
    found = FalsePositives(np.full((len(FPRS), 50), 1), np.full(50, 20))
    rates = example_rates(found, 0.05)
    assert rates is not None
    below = stats.binom.cdf(np.arange(21), 20, 0.05) ** 50
    assert rates.worst_by_chance == int(np.argmax(below >= 0.95)) / 20


def test_the_intervals_cover() -> None:
    # Rates by Beta(.2, 9.8): mean 2 %, deviation 4.2 %. Of 100 intervals at 95 % fewer than 86 cover in one test of 2,000
    # (spread: a normal approximation; the seed is fixed). That of the worst is for all examples at once, and covers nearly
    # always.
    rng = np.random.default_rng(0)
    worst = spread = 0
    for _ in range(100):
        rate = rng.beta(0.2, 9.8, 1000)
        accused = rng.binomial(30, rate)
        found = example_rates(FalsePositives(np.tile(accused, (len(FPRS), 1)), np.full(1000, 30)), 0.01)
        assert found is not None
        worst += found.worst.low <= rate.max() <= found.worst.high
        spread += found.spread.low <= rate.std() <= found.spread.high
    assert worst >= 95
    assert spread >= 86


def test_ties_leave_no_threshold_and_nan_is_refused() -> None:
    assert example_rates(FalsePositives.of(np.zeros((20, 50)), np.ones((20, 50), bool)), 0.01) is None
    with pytest.raises(DataError, match="some are NaN"):
        FalsePositives.of(np.full((2, 3), np.nan), np.ones((2, 3), bool))


def test_shadows_play_the_target() -> None:
    evidence, _ = overfitted()
    others = np.arange(16) != 3
    signals = evidence.signals
    by_hand = Evidence(
        labels_N=evidence.labels_N,
        logits_NC=evidence.shadow_logits_SNC[3],
        shadow_logits_SNC=evidence.shadow_logits_SNC[others],
        shadow_member_SN=evidence.shadow_member_SN[others],
        population_labels_P=evidence.population_labels_P,
        population_logits_PC=evidence.population_shadow_logits_SPC[3],
        population_shadow_logits_SPC=evidence.population_shadow_logits_SPC[others],
    )
    for variant, scores_MN in LIRA.as_targets(evidence).items():
        np.testing.assert_array_equal(scores_MN[3], LIRA.score(by_hand)[variant])
    assert np.isnan(evidence.with_target(3).shadow_logits_SNC).all()
    assert isinstance(evidence.with_target(3).given, Signals)
    assert evidence.signals is signals


def uneven(shadows: int = 48, candidates: int = 500) -> tuple[Evidence, BoolArray]:
    """Signals whose deviation is .2 in half of the examples and 2 in the others; members' are higher by 1."""
    rng, base = np.random.default_rng(0), random_evidence(shadows, candidates=candidates)
    deviation_N = np.where(np.arange(candidates) % 2 == 0, 0.2, 2.0)
    member_N = rng.random(candidates) < 0.5
    member_MN = np.vstack([base.shadow_member_SN, member_N])
    signal_MN = deviation_N * rng.normal(size=member_MN.shape) + member_MN
    fresh_MP = rng.normal(size=(shadows + 1, len(base.population_labels_P)))
    return replace(base, given=Signals(signal_MN[-1], signal_MN[:-1], fresh_MP[-1], fresh_MP[:-1])), member_N


def test_calibration_evens_the_rates_out_and_members_are_still_found() -> None:
    evidence, member = uneven()
    rates = {}
    for attack, variant in ((LIRA, "online, fixed variance"), (CALIBRATED, "LiRA, fixed variance")):
        claim = attack.claim(evidence)
        found = example_rates(claim.false_positives[variant], 0.01)
        assert found is not None
        rates[attack.kind] = found
        scores = claim.scores[variant]
        assert stats.mannwhitneyu(scores[member], scores[~member], alternative="greater").pvalue < 1e-6
    # Half of the examples take all false positives: 0 and 2 %, a deviation of 1 %.
    assert rates[LIRA.kind].spread.low > 0.007
    assert rates[CALIBRATED.kind].spread.value < 0.004
    assert rates[CALIBRATED.kind].worst.value <= rates[CALIBRATED.kind].worst_by_chance


def test_the_sums_of_the_calibrated_are_those_of_the_loop() -> None:
    for evidence in (uneven()[0], random_evidence(4)):
        signals, member = evidence.signals.shadow_SN, evidence.shadow_member_SN
        loop = LIRA.as_targets(evidence)["online, fixed variance"]
        # A likelihood here has its constants, and there not: they cancel.
        np.testing.assert_allclose(played(signals, member), loop, rtol=1e-9, atol=1e-9)


def test_a_model_that_plays_the_target_is_left_out_of_its_own_yardstick() -> None:
    evidence, _ = overfitted()
    found = CALIBRATED.claim(evidence).false_positives["LiRA, fixed variance"]
    plain = played(evidence.signals.shadow_SN, evidence.shadow_member_SN)
    z = np.full_like(plain, -np.inf)
    for model, example in np.argwhere(~evidence.shadow_member_SN):
        rest = ~evidence.shadow_member_SN[:, example]
        rest[model] = False
        own = plain[rest, example]
        z[model, example] = (plain[model, example] - own.mean()) / own.std(ddof=1)
    np.testing.assert_array_equal(found.accused_FN, FalsePositives.of(z, ~evidence.shadow_member_SN).accused_FN)


def test_few_shadows_and_attacks_on_outputs_are_not_counted() -> None:
    assert LIRA.claim(random_evidence(15)).false_positives == {}
    assert set(LIRA.claim(random_evidence(16)).false_positives) == set(LIRA.score(random_evidence(16)))
    assert Shokri(kind="membership/shokri").claim(overfitted()[0]).false_positives == {}


def test_no_example_was_in_any_shadow() -> None:
    evidence = random_evidence(16)
    outside = replace(evidence, shadow_member_SN=np.zeros_like(evidence.shadow_member_SN))
    found = LIRA.claim(outside).false_positives
    assert set(found) == {"offline", "offline, fixed variance"}
    assert found["offline"].models_N.tolist() == [16] * 50


def test_ranks_of_few_shadows_tie() -> None:
    found = AttackR(kind="membership/attack_r").claim(overfitted()[0]).false_positives["reference"]
    assert example_rates(found, 0.01) is None


def test_counts_survive_being_written_down() -> None:
    claim = LIRA.claim(random_evidence(16))
    again = MembershipClaim.from_arrays("membership/lira", claim.arrays("membership/lira"))
    assert again.scores.keys() == claim.scores.keys() == again.false_positives.keys()
    for variant, found in claim.false_positives.items():
        np.testing.assert_array_equal(again.false_positives[variant].accused_FN, found.accused_FN)
        np.testing.assert_array_equal(again.false_positives[variant].models_N, found.models_N)
    assert claim.checked("membership/lira", 50).false_positives is claim.false_positives


def test_the_finding_and_its_page_have_them() -> None:
    evidence, member = overfitted()
    nothing = np.zeros(0)
    everybody = np.ones(len(member), np.bool_)
    truth = Truth(
        everybody.astype(np.int64),
        everybody,
        member,
        lambda: np.random.default_rng(0),
        lambda: (nothing,) * 2,
        lambda: (nothing,) * 2,
    )
    claims = {"membership/lira": AttackClaim(LIRA.claim(evidence))}
    finding = Membership().evaluate(Claims("external", 16, claims), truth, None)
    assert all(one.examples is not None and one.examples.fpr == finding.best.headline_fpr for one in finding.attacks)
    table = example_table(finding)
    assert table is not None
    assert [row[0] for row in table.rows] == [attack_name(one.attack, one.variant) for one in finding.attacks]
    assert "false positives over all are up to" in table.summary
    page = Environment(autoescape=True).from_string(TEMPLATE).render(examples=table, cell=lambda cell, _: cell[0])
    assert "False positives by example" in page
