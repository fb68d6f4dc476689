"""A multilayer perceptron."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import nn

from privfl.learning.models import Model


class Mlp(Model):
    """Fully connected layers of the given widths, then a linear layer to the outputs."""

    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (64,)
    activation: Literal["tanh", "relu"] = "relu"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        widths = (math.prod(input_shape), *self.hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.Tanh() if self.activation == "tanh" else nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
