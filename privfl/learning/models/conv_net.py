"""A convolutional network whose layers are listed in the configuration, as papers list them."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import nn

from privfl.errors import ModelError
from privfl.learning.models import Model
from privfl.tables import Frozen


class Convolution(Frozen):
    """A convolution and the activation behind it: ``conv`` output channels, a square ``kernel``, zeros around the input."""

    conv: PositiveInt
    kernel: PositiveInt
    stride: PositiveInt = 1
    padding: NonNegativeInt = 0


class Pooling(Frozen):
    """Maximum over ``pool`` by ``pool`` positions."""

    pool: PositiveInt
    stride: PositiveInt


class ConvNet(Model):
    """Convolutions and poolings in the order of ``layers``, fully connected layers of the widths ``hidden``, and the outputs.

    The default is the network on scattering features of Tramèr & Boneh 2021, appendix C: 33,066 parameters on 81 channels of
    7x7 with 10 classes.
    """

    layers: Annotated[tuple[Convolution | Pooling, ...], Field(strict=False)] = (
        Convolution(conv=16, kernel=3, stride=2, padding=1),
        Convolution(conv=32, kernel=3, padding=1),
    )
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (32,)
    activation: Literal["tanh", "relu"] = "tanh"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        if len(input_shape) != 3:
            raise ModelError(
                f"model.kind = 'conv_net' takes images (channels, height, width); the data has shape {input_shape}: "
                "use 'mlp' or 'logistic'"
            )
        modules, channels = list[nn.Module](), input_shape[0]
        for layer in self.layers:
            if isinstance(layer, Pooling):
                modules.append(nn.MaxPool2d(layer.pool, layer.stride))
            else:
                modules += [nn.Conv2d(channels, layer.conv, layer.kernel, layer.stride, layer.padding), self._activated()]
                channels = layer.conv
        widths = (self._flat(modules, input_shape), *self.hidden)
        modules.append(nn.Flatten())
        for before, after in itertools.pairwise(widths):
            modules += [nn.Linear(before, after), self._activated()]
        return nn.Sequential(*modules, nn.Linear(widths[-1], outputs))

    def _activated(self) -> nn.Module:
        return nn.Tanh() if self.activation == "tanh" else nn.ReLU()

    def _flat(self, modules: list[nn.Module], input_shape: tuple[int, ...]) -> int:
        """Number of values behind the convolutions and poolings."""
        try:
            with torch.no_grad():
                return int(nn.Sequential(*modules)(torch.zeros(1, *input_shape)).numel())
        except RuntimeError:
            raise ModelError(
                f"model.layers: leave nothing of images of {input_shape[1]}x{input_shape[2]}; give smaller kernels, "
                "fewer poolings or more padding"
            ) from None
