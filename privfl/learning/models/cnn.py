"""The small convolutional network that papers on DP-SGD compare on."""

from __future__ import annotations

from typing import Literal

from torch import nn

from privfl.errors import ModelError
from privfl.learning.models import Model


class Cnn(Model):
    """Two convolutions and two linear layers: 26,010 parameters on 28x28 grey images with 10 classes.

    Source: Papernot et al. 2021, "Tempered sigmoid activations", table 1; Tramèr & Boneh 2021, appendix C. Tanh bounds
    the activations and so the gradients, and does better than ReLU under clipping.
    """

    activation: Literal["tanh", "relu"] = "tanh"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        if len(input_shape) != 3 or min(input_shape[1:]) < 16:
            raise ModelError(
                f"model.kind = 'cnn' takes images (channels, height, width) of at least 16x16; the data has shape "
                f"{input_shape}: use 'mlp' or 'logistic'"
            )
        channels, height, width = input_shape
        activation = nn.Tanh if self.activation == "tanh" else nn.ReLU
        rows, columns = _side_after(height), _side_after(width)
        return nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=8, stride=2, padding=2),
            activation(),
            nn.MaxPool2d(kernel_size=2, stride=1),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            activation(),
            nn.MaxPool2d(kernel_size=2, stride=1),
            nn.Flatten(),
            nn.Linear(32 * rows * columns, 32),
            activation(),
            nn.Linear(32, outputs),
        )


def _side_after(side: int) -> int:
    """Height or width of the feature maps behind both convolutions and poolings."""
    first = (side + 2 * 2 - 8) // 2 + 1
    second = (first - 1 - 4) // 2 + 1
    return second - 1
