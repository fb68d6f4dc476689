"""What both aggregators refuse, and what neither depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from aggregator_inputs import context, expected_mean, updates

from privfl.errors import ProtocolError
from privfl.federation.aggregators import Aggregator
from privfl.federation.aggregators.mean import Mean
from privfl.federation.aggregators.secure_sum import SecureSum
from privfl.shelves import SHELVES

BOTH: list[Aggregator] = [Mean(kind="mean"), SecureSum(kind="secure_sum")]
both = pytest.mark.parametrize("aggregator", BOTH, ids=["mean", "secure_sum"])


@both
def test_the_shelf_finds_it(aggregator: Aggregator) -> None:
    assert SHELVES["aggregator"].find(aggregator.kind) is type(aggregator)


@both
def test_the_mean_is_the_weighted_mean(aggregator: Aggregator) -> None:
    given = updates()
    found = aggregator.aggregate(given, context())
    assert found.mean_D is not None
    assert found.mean_D.dtype == torch.float32
    torch.testing.assert_close(found.mean_D.double(), expected_mean(given), rtol=0, atol=1e-6)
    assert found.clipped == 0


@both
def test_the_order_of_arrival_does_not_matter(aggregator: Aggregator) -> None:
    given = updates(7)
    one, other = (aggregator.aggregate(order, context()) for order in (given, given[3:] + given[:3]))
    assert one.mean_D is not None
    assert other.mean_D is not None
    assert torch.equal(one.mean_D, other.mean_D)
    assert one.seen.keys() == other.seen.keys()
    assert all(torch.equal(one.seen[name], other.seen[name]) for name in one.seen)


@both
def test_updates_stay_as_they_were_and_may_carry_gradients(aggregator: Aggregator) -> None:
    given = [replace(update, delta_D=update.delta_D.clone().requires_grad_()) for update in updates()]
    found = aggregator.aggregate(given, context())
    assert found.mean_D is not None
    assert not found.mean_D.requires_grad
    assert all(torch.equal(one.delta_D, other.delta_D) for one, other in zip(given, updates(), strict=True))


@both
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"delta_D": torch.zeros(11)}, "shape"),
        ({"delta_D": torch.zeros(3, 4)}, "shape"),
        ({"delta_D": torch.full((12,), torch.nan)}, "finite"),
        ({"delta_D": torch.full((12,), -torch.inf)}, "finite"),
        ({"weight": -0.1}, "weight"),
        ({"weight": 1.1}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"client": 4}, "two updates"),
    ],
    ids=str,
)
def test_a_bad_update_is_refused_by_name(aggregator: Aggregator, change: dict[str, Any], match: str) -> None:
    given = updates()
    given[2] = replace(given[2], **change)
    with pytest.raises(ProtocolError, match=f"client {given[2].client}.*{match}") as caught:
        aggregator.aggregate(given, context())
    assert "\n" not in str(caught.value)


@both
def test_a_cohort_that_is_too_small_or_too_large_is_refused(aggregator: Aggregator) -> None:
    for given in (updates(aggregator.minimum_clients - 1), updates(21)):
        with pytest.raises(ProtocolError, match=rf"{len(given)} updates: must be"):
            aggregator.aggregate(given, context())


@both
def test_the_smallest_cohort_is_taken(aggregator: Aggregator) -> None:
    given = updates(aggregator.minimum_clients)
    found = aggregator.aggregate(given, context())
    assert found.mean_D is not None
    torch.testing.assert_close(found.mean_D.double(), expected_mean(given), rtol=0, atol=1e-6)


@both
def test_weights_of_zero_are_refused(aggregator: Aggregator) -> None:
    with pytest.raises(ProtocolError, match="weights add up to 0"):
        aggregator.aggregate([replace(update, weight=0.0) for update in updates()], context())
