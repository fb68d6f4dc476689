"""A small residual network."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import relu

from privfl.errors import ModelError
from privfl.learning.models import Model

_GROUPS = 8


class Resnet8(Model):
    """Eight layers in three residual blocks of 1, 2 and 4 times ``width`` channels, with GroupNorm: no example sees another.

    Source: He et al. 2016, section 4.2, with n = 1 and projections where the shape changes; GroupNorm (Wu & He 2018) in the
    place of BatchNorm, as DP-SGD needs it (De et al. 2022).
    """

    width: PositiveInt = 16

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        if len(input_shape) != 3 or min(input_shape[1:]) < 8:
            raise ModelError(
                f"model.kind = 'resnet8' takes images (channels, height, width) of at least 8x8; the data has shape "
                f"{input_shape}: use 'mlp' or 'logistic'"
            )
        if self.width % _GROUPS:
            raise ModelError(f"model.width = {self.width}: must be a multiple of {_GROUPS}, the number of groups of a norm")
        width = self.width
        return nn.Sequential(
            nn.Conv2d(input_shape[0], width, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, width),
            nn.ReLU(),
            Block(width, width, stride=1),
            Block(width, 2 * width, stride=2),
            Block(2 * width, 4 * width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, outputs),
        )


class Block(nn.Module):
    """Two 3x3 convolutions, each with its norm, and the input added to their output."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(_GROUPS, out)
        self.second = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(_GROUPS, out)
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        inner = relu(self.first_norm(self.first(x)))
        return relu(self.second_norm(self.second(inner)) + self.shortcut(x))
