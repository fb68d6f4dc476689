"""A model of the next word from the present one."""

from __future__ import annotations

from torch import Tensor, nn

from privfl.learning.models import Model


class NextWord(Model):
    """A table of vectors, and a linear layer to a logit for each word."""

    width: int = 8

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """From (B, T) words to (B, T, words)."""
        return nn.Sequential(_Words(), nn.Embedding(classes, self.width), nn.Linear(self.width, classes))


class _Words(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Words come as numbers."""
        return x.long()
