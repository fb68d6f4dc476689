"""Windows of images: copied out, channels last, so that a convolution is a product, and added up again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_SHORT_ROW = 64
"""Bytes; windows whose rows are shorter are copied in two steps, columns first (measured)."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """How windows slide over an image of (H, W): sizes in positions, ``padding`` left, right, top, bottom."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    padding: tuple[int, ...]

    @property
    def symmetric(self) -> bool:
        """Whether there is as much padding left as right, and top as bottom."""
        return self.padding[::2] == self.padding[1::2]

    @property
    def margin(self) -> Pair:
        """The padding above and below, and that on both sides, if it is symmetric."""
        return self.padding[2], self.padding[0]

    def padded(self, size: Pair) -> Pair:
        """Height and width of the padded image."""
        left, right, top, bottom = self.padding
        return size[0] + top + bottom, size[1] + left + right

    def steps(self, size: Pair) -> Pair:
        """How many windows fit, down and across."""
        rows, columns = (
            (whole - dilation * (kernel - 1) - 1) // stride + 1
            for whole, kernel, stride, dilation in zip(self.padded(size), self.kernel, self.stride, self.dilation, strict=True)
        )
        return rows, columns


class Unfold(torch.autograd.Function):
    """(N, C, H, W) -> every window, shape (N, rows · columns, kernel height · kernel width · C), and back."""

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, window: Window) -> Tensor:
        """Copy the windows."""
        ctx.window, ctx.shape = window, x_NCHW.shape
        return unfold(x_NCHW, window)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Add the windows up where they came from."""
        return fold(grads[0], ctx.window, ctx.shape), None


def unfold(x_NCHW: Tensor, window: Window) -> Tensor:
    """See :class:`Unfold`."""
    examples, channels, *size = x_NCHW.shape
    (rows, columns), (high, wide) = window.steps((size[0], size[1])), window.kernel
    image = _padded(x_NCHW, window)
    height, width = image.shape[1:3]
    down, across = window.stride
    if high > 1 and window.dilation == (1, 1) and wide * channels * image.element_size() < _SHORT_ROW:
        row, column, run = width * channels, across * channels, wide * channels
        strips = image.as_strided((examples, columns, height, run), (height * row, column, row, 1)).contiguous()
        apart = (columns * height * run, down * run, height * run, 1)
        return strips.as_strided((examples, rows, columns, high * run), apart).reshape(examples, rows * columns, high * run)
    row, column = width * channels, channels
    strides = (height * row, down * row, across * column, window.dilation[0] * row, window.dilation[1] * column, 1)
    view = image.as_strided((examples, rows, columns, high, wide, channels), strides)
    return view.reshape(examples, rows * columns, high * wide * channels)


def fold(windows_NLP: Tensor, window: Window, shape: tuple[int, ...]) -> Tensor:
    """The transpose of :func:`unfold`; ``shape`` is that of its input."""
    examples, channels, *size = shape
    (rows, columns), (high, wide) = window.steps((size[0], size[1])), window.kernel
    down, across = window.stride
    height, width = window.padded((size[0], size[1]))
    windows = windows_NLP.view(examples, rows, columns, high, wide, channels)
    if window.dilation == (1, 1) and high % down == 0 and wide % across == 0:
        # A window is made of blocks of the size of a stride, and blocks of one place in the window tile the image.
        tall, broad = max(-(-height // down), rows - 1 + high // down), max(-(-width // across), columns - 1 + wide // across)
        image = windows.new_zeros(examples, tall * down, broad * across, channels)
        blocks = image.view(examples, tall, down, broad, across, channels)
        parts = windows.view(examples, rows, columns, high // down, down, wide // across, across, channels)
        for i in range(high // down):
            for j in range(wide // across):
                # Not +=, after which Python writes the slice into itself.
                blocks[:, i : i + rows, :, j : j + columns].add_(parts[:, :, :, i, :, j].transpose(2, 3))
    else:
        image = windows.new_zeros(examples, height, width, channels)
        for i in range(high):
            for j in range(wide):
                top, left = i * window.dilation[0], j * window.dilation[1]
                place = image[:, top : top + down * (rows - 1) + 1 : down, left : left + across * (columns - 1) + 1 : across]
                place += windows[:, :, :, i, j]
    left, _, top, _ = window.padding
    return image[:, top : top + size[0], left : left + size[1]].permute(0, 3, 1, 2)


def _padded(x_NCHW: Tensor, window: Window) -> Tensor:
    """The padded image, channels last, contiguous."""
    image = x_NCHW.permute(0, 2, 3, 1)
    if not any(window.padding):
        return image.contiguous()
    examples, height, width, channels = image.shape
    left, _, top, _ = window.padding
    padded = image.new_zeros(examples, *window.padded((height, width)), channels)
    padded[:, top : top + height, left : left + width] = image
    return padded
