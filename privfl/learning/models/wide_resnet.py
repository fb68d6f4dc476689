"""Wide residual networks with GroupNorm, the models of the best figures of DP-SGD without other data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import relu

from privfl.errors import ModelError
from privfl.learning.models import Model

_STEM = 16


class WideResnet(Model):
    """WRN-``depth``-``width``: three groups of (depth − 4) / 6 pre-activation blocks of 16, 32 and 64 times ``width`` channels.

    Source: Zagoruyko & Komodakis 2016, table 1, without dropout; GroupNorm in the place of BatchNorm as in De et al. 2022,
    section 3, whose weight standardisation is left out, since Opacus has no rule for it.

    Args:
        depth: 10, 16, 22, 28, 40, ...: 6 n + 4.
        width: k, the factor of the channels.
        groups: groups of each norm, a divisor of 16.
    """

    depth: Annotated[int, Field(ge=10)] = 16
    width: PositiveInt = 4
    groups: PositiveInt = 16

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        if len(input_shape) != 3 or min(input_shape[1:]) < 8:
            raise ModelError(
                f"model.kind = 'wide_resnet' takes images (channels, height, width) of at least 8x8; the data has shape "
                f"{input_shape}: use 'mlp' or 'logistic'"
            )
        if (self.depth - 4) % 6:
            raise ModelError(f"model.depth = {self.depth}: must be 6 n + 4, such as 10, 16, 28 or 40")
        if _STEM % self.groups:
            raise ModelError(f"model.groups = {self.groups}: must divide {_STEM}, the channels of the first layer")
        blocks, channels = list[nn.Module](), _STEM
        for number, out in enumerate(factor * _STEM * self.width for factor in (1, 2, 4)):
            for place in range((self.depth - 4) // 6):
                blocks.append(WideBlock(channels, out, stride=2 if number and not place else 1, groups=self.groups))
                channels = out
        return nn.Sequential(
            nn.Conv2d(input_shape[0], _STEM, kernel_size=3, padding=1, bias=False),
            *blocks,
            nn.GroupNorm(self.groups, channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, outputs),
        )


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind a norm and a ReLU; a 1x1 convolution of the activated input if the shape changes."""

    def __init__(self, channels: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(groups, channels)
        self.first = nn.Conv2d(channels, out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(groups, out)
        self.second = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        same = channels == out and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        active = relu(self.first_norm(x))
        inner: Tensor = self.second(relu(self.second_norm(self.first(active))))
        return inner + (x if self.shortcut is None else self.shortcut(active))
