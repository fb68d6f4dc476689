"""A model with batch normalisation that keeps no running means."""

from __future__ import annotations

import math

from torch import nn

from privfl.learning.models import Model


class Normed(Model):
    """Two linear layers with BatchNorm between them."""

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(input_shape), 8),
            nn.BatchNorm1d(8, track_running_stats=False),
            nn.ReLU(),
            nn.Linear(8, outputs),
        )
