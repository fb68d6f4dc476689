"""The rule for ``nn.Conv1d`` and ``nn.Conv2d``: windows of the input, channels last, times a matrix.

A library's convolution takes one set of weights; as a product it takes one for each client. Channels come last, so that a
window's rows are copied in long stretches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from privfl.training._rules import CohortLayer, Pass
from privfl.training._rules.products import Product

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
                blocks[:, i : i + rows, :, j : j + columns] += parts[:, :, :, i, :, j].transpose(2, 3)
    else:
        image = windows.new_zeros(examples, height, width, channels)
        for i in range(high):
            for j in range(wide):
                top, left = i * window.dilation[0], j * window.dilation[1]
                place = image[:, top : top + down * (rows - 1) + 1 : down, left : left + across * (columns - 1) + 1 : across]
                place += windows[:, :, :, i, j]
    left, _, top, _ = window.padding
    return image[:, top : top + size[0], left : left + size[1]].permute(0, 3, 1, 2)


class CohortConvolution(CohortLayer):
    """The convolution of client k's examples with client k's kernels."""

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        assert isinstance(layer, nn.Conv1d | nn.Conv2d)
        kernel, stride, dilation = (_pair(value) for value in (layer.kernel_size, layer.stride, layer.dilation))
        padding = tuple([*layer._reversed_padding_repeated_twice, 0, 0][:4])
        self.window = Window(kernel, stride, dilation, padding)
        self.groups = layer.groups

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Padding by anything but zeros is left to others."""
        return type(layer) in (nn.Conv1d, nn.Conv2d) and layer.padding_mode == "zeros"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, W) or (N, C, H, W) -> (N, O, ...), channels last in memory."""
        image = x.unsqueeze(2) if x.dim() == 3 else x
        weight, bias_KO = self.weight("weight"), self.weight("bias")
        assert weight is not None
        clients, outputs, inputs = weight.shape[:3]
        windows_NLP: Tensor = Unfold.apply(image, self.window)  # type: ignore[no-untyped-call]
        parts = windows_NLP.view(len(x), windows_NLP.shape[1], -1, self.groups, inputs)
        a_NGLP = parts.permute(0, 3, 1, 2, 4).reshape(len(x), self.groups, windows_NLP.shape[1], -1)
        # The windows' channels come last, and so must the kernels'.
        kernels = weight.flatten(3).transpose(2, 3).reshape(clients, self.groups, outputs // self.groups, -1)
        bias_KGO = None if bias_KO is None else bias_KO.view(clients, self.groups, -1)
        out_NGLO: Tensor = Product.apply(a_NGLP, self.shared.anchor, self, kernels, bias_KGO)  # type: ignore[no-untyped-call]
        rows, columns = self.window.steps((image.shape[2], image.shape[3]))
        out = out_NGLO.transpose(1, 2).reshape(len(x), rows, columns, outputs).permute(0, 3, 1, 2)
        return out.squeeze(2) if x.dim() == 3 else out


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


def _pair(value: tuple[int, ...]) -> Pair:
    return (1, value[0]) if len(value) == 1 else (value[0], value[1])
