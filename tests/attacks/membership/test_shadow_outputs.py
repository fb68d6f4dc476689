import numpy as np
import pytest
from pool_of_models import CANDIDATES, CLASSES, POPULATION, untrained
from scipy import stats

from attacks._coins import draw_memberships
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ModelError
from privfl.running.knowledge import ModelOutputs, Shadows


@pytest.mark.parametrize("shadows", [1, 2, 3, 4, 7, 64])
def test_every_candidate_is_in_half_of_the_shadows(shadows: int) -> None:
    member_SN = draw_memberships(shadows, 5000, np.random.default_rng(0))
    assert member_SN.shape == (shadows, 5000)
    assert set(member_SN.sum(axis=0)) <= {shadows // 2, (shadows + 1) // 2}


@pytest.mark.parametrize("shadows", [1, 3, 4])
def test_each_shadow_s_members_are_independent_fair_coins_like_the_target_s(shadows: int) -> None:
    # 99.9 % intervals: of the share of members in each row, and of the share of neighbours that agree.
    member_SN = draw_memberships(shadows, 20_000, np.random.default_rng(1))
    for row in member_SN:
        for coins in (row, row[1:] == row[:-1]):
            interval = stats.binomtest(int(coins.sum()), len(coins)).proportion_ci(0.999, method="exact")
            assert interval.low < 0.5 < interval.high


def test_no_shadows() -> None:
    assert draw_memberships(0, 10, np.random.default_rng(0)).shape == (0, 10)


def test_shadows_are_put_together_row_by_row() -> None:
    member_SN = draw_memberships(3, CANDIDATES, np.random.default_rng(0))
    outputs = [untrained(row_N, index) for index, row_N in enumerate(member_SN)]
    some = Shadows.of(member_SN, outputs, POPULATION, (CLASSES,))
    for index, one in enumerate(outputs):
        np.testing.assert_array_equal(some.candidates_SNC[index], one.candidates_NC)
        np.testing.assert_array_equal(some.population_SPC[index], one.population_PC)
    none = Shadows.of(member_SN[:0], [], POPULATION, (CLASSES,))
    assert (none.candidates_SNC.shape, none.population_SPC.shape) == ((0, CANDIDATES, 10), (0, POPULATION, 10))


def test_a_model_that_diverged_is_named() -> None:
    fine = untrained(np.ones(CANDIDATES, dtype=bool), 9)
    logits = fine.candidates_NC.copy()
    logits[:3, 0] = np.nan
    broken = ModelOutputs(logits, fine.population_PC)
    with pytest.raises(ModelError, match=f"the target model: 3 of {CANDIDATES} outputs are not finite"):
        broken.require_finite("the target model")
    with pytest.raises(ModelError, match=f"shadow model 1: 3 of {CANDIDATES} outputs are not finite"):
        Shadows.of(np.ones((2, CANDIDATES), dtype=bool), [fine, broken], POPULATION, (CLASSES,))


def test_a_claim_is_kept_under_the_names_of_its_variants() -> None:
    claim = MembershipClaim({"loss": np.arange(3.0), "modified entropy": np.ones(3)})
    arrays = claim.arrays("membership/loss")
    assert list(arrays) == ["membership/loss: loss", "membership/loss: modified entropy"]
    again = MembershipClaim.from_arrays("membership/loss", arrays)
    assert list(again.scores) == ["loss", "modified entropy"]
    np.testing.assert_array_equal(again.scores["loss"], claim.scores["loss"])
