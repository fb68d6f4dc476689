import numpy as np
import pytest
from numpy.typing import NDArray
from pool_of_models import CANDIDATES, digits, untrained
from scipy import stats

from attacks.membership._coins import draw_memberships
from attacks.membership._harness import Outputs, gather, score_all, to_arrays
from attacks.membership.loss import Loss
from privfl.errors import ModelError

BoolArray = NDArray[np.bool_]


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


def test_each_shadow_is_trained_once_on_its_own_members_from_its_own_stream() -> None:
    calls: list[tuple[BoolArray, int]] = []

    def train(member_N: BoolArray, stream_index: int) -> Outputs:
        calls.append((member_N, stream_index))
        return untrained(member_N, stream_index)

    data = digits()
    member_SN = draw_memberships(3, CANDIDATES, np.random.default_rng(0))
    target = untrained(member_SN[0], 77)
    evidence = gather(target, data.y_N, data.population_y_P, member_SN, train)
    assert [index for _, index in calls] == [0, 1, 2]
    for row, (member_N, index) in zip(member_SN, calls, strict=True):
        np.testing.assert_array_equal(row, member_N)
        np.testing.assert_array_equal(evidence.shadow_logits_SNC[index], untrained(member_N, index).candidates_NC)
        np.testing.assert_array_equal(evidence.population_shadow_logits_SPC[index], untrained(member_N, index).population_PC)
    np.testing.assert_array_equal(evidence.logits_NC, target.candidates_NC)
    np.testing.assert_array_equal(evidence.population_logits_PC, target.population_PC)


@pytest.mark.parametrize("whose", ["the target model", "shadow model 1"])
def test_a_model_that_diverged_is_named(whose: str) -> None:
    data = digits()

    def broken(outputs: Outputs) -> Outputs:
        logits = outputs.candidates_NC.copy()
        logits[:3, 0] = np.nan
        return Outputs(logits, outputs.population_PC)

    def train(member_N: BoolArray, stream_index: int) -> Outputs:
        fine = untrained(member_N, stream_index)
        return broken(fine) if whose == f"shadow model {stream_index}" else fine

    target = untrained(np.ones(CANDIDATES, dtype=bool), 9)
    member_SN = draw_memberships(2, CANDIDATES, np.random.default_rng(0))
    with pytest.raises(ModelError, match=f"{whose}: 3 of {CANDIDATES} outputs are not finite"):
        gather(broken(target) if "target" in whose else target, data.y_N, data.population_y_P, member_SN, train)


def test_scores_are_kept_under_their_names() -> None:
    data = digits()
    target = untrained(np.ones(CANDIDATES, dtype=bool), 9)
    evidence = gather(
        target, data.y_N, data.population_y_P, draw_memberships(0, CANDIDATES, np.random.default_rng(0)), untrained
    )
    member_N = np.arange(CANDIDATES) % 2 == 0
    scores = score_all([Loss(kind="membership/loss")], evidence)
    arrays = to_arrays(scores, member_N)
    assert list(arrays) == ["member", "membership/loss: loss", "membership/loss: modified entropy"]
    np.testing.assert_array_equal(arrays["membership/loss: loss"], scores["membership/loss"]["loss"])
    np.testing.assert_array_equal(arrays["member"], member_N)
