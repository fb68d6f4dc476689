"""LeNet: two convolutions of 5 by 5 with pooling, then linear layers."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import nn

from privfl.errors import ModelError
from privfl.learning.models import Model

_KERNEL = 5


class Lenet(Model):
    """Convolutions of 5x5, each before a max-pooling of 2x2, then linear layers (LeCun et al. 1998, with ReLU).

    By default it is the ``simple-cnn`` of NIID-Bench (Li 2022, section V): 44,426 parameters on 28x28 grey images with 10
    classes. With ``channels = [32, 64]``, ``hidden = [512]`` and ``padding = true`` it is the CNN of McMahan et al. 2017,
    section 3: 1,663,370.

    Args:
        channels: the number of filters of each convolution.
        hidden: the width of each linear layer before the last.
        padding: whether images are padded with zeros, so that a convolution keeps their height and width.
        activation: the function after each layer but the last.
    """

    channels: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (6, 16)
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (120, 84)
    padding: bool = False
    activation: Literal["tanh", "relu"] = "relu"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        sides = tuple(self._side_after(side) for side in input_shape[1:])
        if len(input_shape) != 3 or min(sides) < 1:
            raise ModelError(
                f"model.kind = 'lenet' takes images (channels, height, width) of at least {self._least()}x{self._least()}; the "
                f"data has shape {input_shape}: use 'mlp' or 'logistic'"
            )
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((input_shape[0], *self.channels)):
            convolution = nn.Conv2d(before, after, _KERNEL, padding=_KERNEL // 2 if self.padding else 0)
            layers += [convolution, self._function(), nn.MaxPool2d(2)]
        widths = (self.channels[-1] * sides[0] * sides[1], *self.hidden)
        layers.append(nn.Flatten())
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), self._function()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def _function(self) -> nn.Module:
        return nn.Tanh() if self.activation == "tanh" else nn.ReLU()

    def _side_after(self, side: int) -> int:
        """Height or width of the feature maps behind all convolutions and poolings."""
        for _ in self.channels:
            side = (side if self.padding else side - _KERNEL + 1) // 2
        return side

    def _least(self) -> int:
        """The smallest height and width that leave a pixel."""
        return next(side for side in itertools.count(1) if self._side_after(side) >= 1)
