"""The words of the secure sum in the clear: the same result to the bit, so that the protocol alone is compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aggregator_inputs import context, updates
from small_runs import SMALL, small

from privfl.config import ExperimentConfig
from privfl.federation.aggregators.plain_sum import PlainSum
from privfl.federation.aggregators.secure_sum import SecureSum
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic


@pytest.mark.parametrize("settings", [{}, {"bits": 16}, {"bits": 24, "clip": 0.1}, {"bits": 64}])
def test_it_is_the_secure_sum_to_the_bit(settings: dict[str, Any]) -> None:
    plain, secure = PlainSum(kind="plain_sum", **settings), SecureSum(kind="secure_sum", **settings)
    found, expected = (one.aggregate(updates(), context()) for one in (plain, secure))
    assert found.mean_D is not None
    assert expected.mean_D is not None
    assert torch.equal(found.mean_D, expected.mean_D)
    assert found.sum_D is not None
    assert expected.sum_D is not None
    assert torch.equal(found.sum_D, expected.sum_D)
    assert (found.weight_sum, found.survivors, found.clipped) == (expected.weight_sum, expected.survivors, expected.clipped)
    assert plain.minimum_clients == secure.minimum_clients
    assert plain.rounding_norm(context()) == secure.rounding_norm(context())
    assert plain.carries(0.5, context()) == secure.carries(0.5, context())


def test_the_server_sees_each_update_as_it_was_rounded() -> None:
    plain, given = PlainSum(kind="plain_sum"), updates()
    seen = plain.aggregate(given, context()).seen
    step = 1 / plain.encoding(context()).update.scale
    for place, update in enumerate(given):
        assert float((seen["updates_KD"][place] - update.delta_D).abs().max()) <= 1.01 * step / update.weight
        assert float(seen["weights_K"][place]) == pytest.approx(update.weight, abs=1e-6)


def trained(**changes: Any) -> torch.Tensor:
    config: ExperimentConfig = small(server={"kind": "fedavg"}, **changes)
    with deterministic():
        return assemble(config).train()


LOCAL = {"kind": "client_local", "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5}


@pytest.mark.parametrize("privacy", [SMALL["privacy"], LOCAL, {"kind": "none"}], ids=lambda privacy: privacy["kind"])
def test_secure_aggregation_on_or_off_is_the_same_model_to_the_bit(privacy: dict[str, Any]) -> None:
    """With the mean, which rounds otherwise, noise and batches are others from the second round on."""
    secure, plain, mean = (trained(privacy=privacy, aggregator=kind) for kind in ("secure_sum", "plain_sum", "mean"))
    assert torch.equal(secure, plain)
    assert not torch.equal(secure, mean)
