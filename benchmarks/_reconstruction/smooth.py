"""A small convolutional network with smooth activations and no pooling, as the papers on inversion attack."""

from __future__ import annotations

from torch import nn

from privfl.learning.models import Model


class Smooth(Model):
    """Two convolutions of stride 2, a tanh behind each, and a linear layer."""

    width: int = 12

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        channels, height, rows = input_shape
        size = self.width * ((height + 3) // 4) * ((rows + 3) // 4)
        return nn.Sequential(
            nn.Conv2d(channels, self.width, 5, stride=2, padding=2),
            nn.Tanh(),
            nn.Conv2d(self.width, self.width, 5, stride=2, padding=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(size, outputs),
        )
