"""Norms that adapt (Andrew et al. 2021): what the count costs, what it learns, and that it goes the way of the updates."""

from typing import Any

import numpy as np
import pytest
import torch
from fixed_updates import CLIP, POPULATION, D, Lossy, central, play, updates
from scipy import stats

from privfl.errors import ConfigError, PrivacyError
from privfl.federation.aggregators.secure_sum import SecureSum
from privfl.federation.server_state import ServerState
from privfl.privacy.events import CohortSum
from privfl.privacy.ledger import Ledger
from privfl.privacy.plans._clipping import AdaptiveClipping
from privfl.privacy.plans.client_central import CentralPlan
from privfl.seeding import Seed

ERROR = 1e-4

ADAPTIVE = AdaptiveClipping(kind="adaptive")


def counted(plan: CentralPlan, state: ServerState) -> float:
    """The noisy count that moved the norm, solved for: C ← C exp(−η (b̃ / m + 1/2 − γ))."""
    assert plan.adaptive is not None
    moved = float(torch.log(state.plan["norm"] / plan.max_update_norm))
    return (plan.adaptive.quantile - 0.5 - moved / plan.adaptive.lr) * plan.size


def check_count_noise() -> None:
    """The noise on the count has standard deviation σ_b, by χ², in full and empty cohorts, and is not that of the sum."""
    deltas = {client: torch.zeros(D) for client in range(4)}
    for present, randomness in ((deltas, "seeded"), ({}, "seeded"), (deltas, "secure")):
        plan = central(adaptive=ADAPTIVE, noise_multiplier=0.3, randomness=randomness)
        rounds = [play(plan, present, seed=Seed(number)) for number in range(300)]
        standard = np.array([counted(plan, one.state) - len(present) / 2 for one in rounds]) / (4 / 20)
        low, high = stats.chi2.ppf([ERROR / 2, 1 - ERROR / 2], 300) / 300
        assert low <= np.square(standard).mean() <= high
        assert stats.kstest(standard, "norm").pvalue > ERROR
        first = np.array([float(one.state.global_D[0]) for one in rounds])
        assert abs(np.corrcoef(standard, first)[0, 1]) < 4.1 / np.sqrt(300)


def test_the_noise_of_the_count_is_what_is_accounted() -> None:
    check_count_noise()


def test_an_adaptive_norm_splits_the_noise_as_andrew_2021() -> None:
    plan = central(adaptive=ADAPTIVE, noise_multiplier=0.3, size=4)
    event = plan.planned()
    assert event.count_noise == pytest.approx(4 / 20)
    # z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2), larger than z
    assert event.noise_multiplier == pytest.approx((0.3**-2 - (2 * 0.2) ** -2) ** -0.5)
    assert event.noise_multiplier > 0.3
    assert event.total_noise_multiplier == pytest.approx(0.3, rel=1e-9)


@pytest.mark.parametrize(("begin", "scale"), [(0.01, 3.0), (50.0, 3.0)])
def test_an_adaptive_norm_finds_the_quantile(begin: float, scale: float) -> None:
    """From far above and far below it comes to the median of the updates' lengths, noise of the count and all."""
    plan = central(adaptive=replace_lr(0.3), max_update_norm=begin, noise_multiplier=0.05, sampler="all", size=POPULATION)
    deltas = updates(POPULATION, scale=scale)
    state = play(plan, deltas).state
    for _ in range(80):
        state = play(plan, deltas, state=state, number=state.round).state
    lengths = sorted(float(delta.norm()) for delta in deltas.values())
    assert lengths[3] <= float(state.plan["norm"]) <= lengths[8]


def replace_lr(lr: float) -> AdaptiveClipping:
    return ADAPTIVE.model_copy(update={"lr": lr})


def test_count_moves_by_at_most_a_half() -> None:
    """What the norm learns of one client: ±1/2 of a count, over the fixed denominator (Andrew 2021, section 3.1)."""
    plan = central(adaptive=ADAPTIVE, sampler="all", size=POPULATION)
    others = updates(POPULATION - 1)
    with_it, without = (play(plan, deltas).state.plan["norm"] for deltas in ({**others, 11: torch.zeros(D)}, others))
    assert abs(float(torch.log(with_it / without))) <= ADAPTIVE.lr * 0.5 / POPULATION * (1 + 1e-9)


def test_the_count_is_of_those_whose_updates_arrived() -> None:
    """Two of six are within the norm; whoever is lost on the way is not in the count, and a lost sum counts nobody."""
    plan = central(adaptive=ADAPTIVE)
    short = torch.cat([torch.tensor([CLIP / 2]), torch.zeros(D - 1)])
    deltas = {client: short * (1 if client < 2 else 9) for client in range(6)}
    for lost, count in (((), 1 - 2), ((0,), 0.5 - 2), ((3, 5), 1 - 1), (tuple(range(6)), 0.0)):
        arrived = {client: delta for client, delta in deltas.items() if client not in lost}
        with_losses = play(plan, deltas, aggregator=Lossy(kind="lossy", lost=lost)).state
        # The noise is small beside a half, and the same.
        assert counted(plan, with_losses) == pytest.approx(count + counted(plan, play(plan, {}).state), abs=1e-9)
        assert torch.equal(with_losses.plan["norm"], play(plan, arrived).state.plan["norm"])


def test_the_count_travels_with_the_update_and_arrives_as_it_is() -> None:
    """Through the secure sum the count is the same number as in the clear, in words of any size; stand-ins count nothing."""
    plan, deltas = central(adaptive=ADAPTIVE, max_update_norm=12.0), updates(5)
    clear = play(plan, deltas)
    assert clear.aggregate is not None
    within = torch.tensor([float(float(delta.norm()) <= 12.0) for delta in deltas.values()])
    assert 0 < within.sum() < 5
    assert torch.equal(clear.aggregate.seen["counts_K"], within - 0.5)
    assert clear.aggregate.seen["updates_KD"].shape == (5, D)
    for bits in (16, 32, 64):
        secure = play(plan, deltas, aggregator=SecureSum(kind="secure_sum", bits=bits))
        assert secure.aggregate is not None
        assert set(secure.aggregate.seen) == {"sum_D", "count", "weight_sum"}
        assert secure.aggregate.seen["sum_D"].shape == (D,)
        assert float(secure.aggregate.seen["count"]) == float((within - 0.5).sum())
        assert torch.equal(secure.state.plan["norm"], clear.state.plan["norm"])
    alone = play(plan, updates(1), aggregator=SecureSum(kind="secure_sum"))
    assert alone.participants == [0, 1, 2]
    assert torch.equal(alone.state.plan["norm"], play(plan, updates(1)).state.plan["norm"])


@pytest.mark.parametrize("coarse", [{"clip": 0.25}, {"bits": 16, "clip": 2000.0}])
def test_a_count_that_the_encoding_would_round_or_clip_is_refused(coarse: dict[str, Any]) -> None:
    plan = central(adaptive=ADAPTIVE, max_update_norm=50.0)
    with pytest.raises(PrivacyError, match=r"rounds or clips 0\.5, .*nothing was sent"):
        play(plan, updates(5), aggregator=SecureSum(kind="secure_sum", **coarse))


def test_an_adaptive_norm_that_leaves_no_room_for_its_count_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"noise_multiplier = 0\.4.*must be below 0\.4"):
        central(adaptive=ADAPTIVE, noise_multiplier=0.4, size=4)


def test_a_norm_that_adapts_changes_no_mechanism() -> None:
    plan = central(adaptive=ADAPTIVE, noise_multiplier=0.3)
    first = play(plan, updates(5))
    second = play(plan, updates(5), state=first.state, number=1)
    norms = [event.max_update_norm for one in (first, second) for event in one.events.values() if isinstance(event, CohortSum)]
    assert norms[0] == CLIP != norms[1]
    ledger = Ledger(plan.delta)
    ledger.record(0, first.events)
    ledger.record(1, second.events)
    assert ledger.histories() == [plan.planned().releases(2)]
