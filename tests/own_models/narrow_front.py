"""A linear layer without a ReLU, and one with a ReLU behind it."""

from __future__ import annotations

import math

from torch import nn

from privfl.learning.models import Model


class NarrowFront(Model):
    """16 numbers of the input, then 32 hidden units."""

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        narrow = nn.Linear(math.prod(input_shape), 16)
        return nn.Sequential(nn.Flatten(), narrow, nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, outputs))
