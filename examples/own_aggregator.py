"""Combine the clients' updates by a rule of your own: the trimmed mean, which bears a few extreme clients (Yin 2018).

Run it from the folder above: python -m examples.own_aggregator
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

import privfl
from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, Cost, RoundContext


class TrimmedMean(Aggregator):
    """The mean of each coordinate without its ``trim`` smallest and largest values; the server sees all updates."""

    hides_updates: ClassVar[bool] = False
    trim: int = 1

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """It is no weighted sum, so that plans which add noise to a sum refuse it."""
        updates_KD = torch.stack([update.delta_D for update in updates])
        kept_KD = updates_KD.sort(dim=0).values[self.trim : len(updates) - self.trim]
        return Aggregate(
            mean_D=kept_KD.mean(dim=0),
            sum_D=None,
            weight_sum=float(len(updates)),
            survivors=tuple(sorted(update.client for update in updates)),
            cost=Cost(bytes_up=4 * updates_KD.numel(), bytes_down=0, client_seconds=0.0, server_seconds=0.0),
            clipped=0,
            seen={"updates_KD": updates_KD, "weights_K": torch.ones(len(updates))},
        )


SETTINGS = {
    "name": "own-aggregator",
    "rounds": 3,
    "data": {"kind": "digits", "clients": 10, "partition": {"kind": "iid"}},
    "model": {"kind": "logistic"},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.5},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "examples.own_aggregator", "trim": 2},
    "server": {"kind": "fedavg"},
}

if __name__ == "__main__":
    for override in ("aggregator.trim=2", "aggregator=mean"):
        print(privfl.run(privfl.loads(SETTINGS, override)))
