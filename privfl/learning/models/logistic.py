"""Multinomial logistic regression."""

from __future__ import annotations

import math

from torch import nn

from privfl.learning.models import Model


class Logistic(Model):
    """One linear layer from the flattened input to the outputs."""

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), outputs))
