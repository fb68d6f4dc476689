"""A model of several inputs, which it takes by name."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from privfl.learning.models import Model


class TwoInputs(Model):
    """A table of words, averaged, beside a layer for the measurements."""

    inputs: ClassVar[tuple[str, ...]] = ("measured", "words")

    def build(self, input_shape: Any, outputs: int) -> nn.Module:
        """``input_shape`` is a dictionary."""
        return Both(math.prod(input_shape["measured"]), outputs)


class Both(nn.Module):
    """(B, 2, 2) measurements and (B, 4) words -> (B, outputs)."""

    def __init__(self, measurements: int, outputs: int) -> None:
        super().__init__()
        self.table, self.measured = nn.Embedding(6, 3), nn.Linear(measurements, 3)
        self.out = nn.Linear(6, outputs)

    def forward(self, measured: Tensor, words: Tensor) -> Tensor:
        """Words are integers, as they were given."""
        assert words.dtype == torch.int64
        found: Tensor = self.out(torch.cat([self.measured(measured.flatten(1)).tanh(), self.table(words).mean(1)], 1))
        return found
