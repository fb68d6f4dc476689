"""Sums alone, by somebody who asks no client which model it was sent: secure aggregation without a binding of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from privfl.federation.aggregators import Aggregate, ClientUpdate, RoundContext
from privfl.federation.aggregators.mean import Mean


class UnboundSum(Mean):
    """The mean, of which the server sees the sum."""

    hides_updates = True
    linear = True

    def collect(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate | None:
        """See the class."""
        found = super().collect(updates, context)
        assert found is not None
        assert found.sum_D is not None
        return replace(found, seen={"sum_D": found.sum_D, "weight_sum": torch.tensor(found.weight_sum, dtype=torch.float64)})
