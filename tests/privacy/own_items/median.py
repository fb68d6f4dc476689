"""Aggregators that are no weighted sums, as a user may write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from privfl.federation.aggregators import Aggregate, ClientUpdate, RoundContext
from privfl.federation.aggregators.mean import Mean


class Median(Mean):
    """The coordinate-wise median, which one client may move by as much as the others allow; derived from the mean.

    ``lossy``: without a sum, and without a word of why.
    """

    lossy: bool = False

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """The median in the place of the mean, and as many times as there are clients in that of the sum."""
        middle_D = torch.stack([update.delta_D for update in updates]).median(0).values
        sum_D = None if self.lossy else middle_D.double() * len(updates)
        return replace(super().aggregate(updates, context), mean_D=None if self.lossy else middle_D, sum_D=sum_D)

    def collect(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """The same: one process."""
        return self.aggregate(updates, context)
