from __future__ import annotations

import torch
from aggregator_inputs import context, expected_mean, updates

from privfl.federation.aggregators.mean import Mean

MEAN = Mean(kind="mean")


def test_the_server_sees_every_update_and_says_so() -> None:
    given = updates()
    seen = MEAN.aggregate(given[::-1], context()).seen
    assert not MEAN.hides_updates
    assert torch.equal(seen["updates_KD"], torch.stack([update.delta_D for update in given]))
    assert torch.equal(seen["weights_K"], torch.tensor([update.weight for update in given]))


def test_it_is_exact_to_the_last_bit_of_float32() -> None:
    given = updates(9)
    found = MEAN.aggregate(given, context()).mean_D
    assert found is not None
    assert torch.equal(found, expected_mean(given).float())


def test_the_cost_is_a_float_for_each_number() -> None:
    cost = MEAN.aggregate(updates(5), context()).cost
    assert (cost.bytes_up, cost.bytes_down, cost.client_seconds) == (5 * (12 * 4 + 4), 0, 0.0)
    assert cost.server_seconds > 0


def test_one_client_gets_its_own_update_back() -> None:
    given = updates(1)
    found = MEAN.aggregate(given, context()).mean_D
    assert found is not None
    assert torch.equal(found, given[0].delta_D)
