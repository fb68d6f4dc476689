"""The rule for ``nn.Conv1d`` and ``nn.Conv2d``.

A library's convolution takes one set of weights. On a CPU it is called once for each client: a client's images stay in the
caches, and the library's kernels are better than a product over copied windows. Elsewhere calls are dear, and all
clients together are one product of windows and matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from privfl.learning.training._rules import CohortLayer, Pass, Record, Runs, Sums, whole
from privfl.learning.training._rules.examples import ExamplesRecord
from privfl.learning.training._rules.products import (
    Product,
    WeightRecord,
    add_rows,
    ghost_pays,
    ghost_square_norms,
    joined,
    outer_products,
    square_lengths,
    weighted,
    windows_last,
    without,
)
from privfl.learning.training._rules.windows import Pair, Unfold, Window, unfold

_WINDOWS = 2**19
"""Numbers in the windows that are copied at a time: they should still be in the caches when they are used."""


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
        """(N, C, W) or (N, C, H, W) -> (N, O, ...)."""
        weight, bias_KO = self.weight("weight"), self.weight("bias")
        assert weight is not None
        if x.dim() == 3:
            return whole(self._images(x.unsqueeze(2), weight.unsqueeze(3), bias_KO).squeeze(2))
        return self._images(x, weight, bias_KO)

    def _images(self, x_NCHW: Tensor, weight_KOIHW: Tensor, bias_KO: Tensor | None) -> Tensor:
        if self.window.symmetric and library_pays(x_NCHW.device, self.shared.ways_of or x_NCHW.dtype):
            out: Tensor = _ByLibrary.apply(x_NCHW, self.shared.anchor, self, weight_KOIHW, bias_KO)  # type: ignore[no-untyped-call]
            return out
        clients, outputs, inputs = weight_KOIHW.shape[:3]
        windows_NLP: Tensor = Unfold.apply(x_NCHW, self.window)  # type: ignore[no-untyped-call]
        # The windows' channels come last, and so must the kernels'.
        kernels = weight_KOIHW.flatten(3).transpose(2, 3).reshape(clients, self.groups, outputs // self.groups, -1)
        bias_KGO = None if bias_KO is None else bias_KO.view(clients, self.groups, -1)
        a_NGLP = self.grouped(windows_NLP, inputs)
        out_NGLO: Tensor = Product.apply(a_NGLP, self.shared.anchor, self, kernels, bias_KGO)  # type: ignore[no-untyped-call]
        rows, columns = self.window.steps((x_NCHW.shape[2], x_NCHW.shape[3]))
        return whole(out_NGLO.transpose(1, 2).reshape(len(x_NCHW), rows, columns, outputs).permute(0, 3, 1, 2))

    def grouped(self, windows_NLP: Tensor, inputs: int) -> Tensor:
        """Windows, each group's ``inputs`` channels apart, shape (N, G, L, P)."""
        examples, positions, _ = windows_NLP.shape
        parts = windows_NLP.view(examples, positions, -1, self.groups, inputs)
        return parts.permute(0, 3, 1, 2, 4).reshape(examples, self.groups, positions, -1)

    def by_library(self, x_BCHW: Tensor, weight_OIHW: Tensor, bias_O: Tensor | None) -> Tensor:
        """One client's convolution."""
        window = self.window
        return conv2d(x_BCHW, weight_OIHW, bias_O, window.stride, window.margin, window.dilation, self.groups)

    def transposed(self, g_BOHW: Tensor, x_BCHW: Tensor, weight_OIHW: Tensor, wanted: Literal["x", "weight"]) -> Tensor:
        """The gradient of one client's images or kernel."""
        window = self.window
        gradients = torch.ops.aten.convolution_backward(
            g_BOHW, x_BCHW, weight_OIHW, None, window.stride, window.margin, window.dilation, False, (0, 0), self.groups,
            (wanted == "x", wanted == "weight", False),
        )  # fmt: skip
        found: Tensor = gradients[0] if wanted == "x" else gradients[1]
        return found


class _ByLibrary(torch.autograd.Function):
    """The convolutions of all clients, one after another; the backward pass leaves a :class:`ConvolutionRecord`."""

    @staticmethod
    def forward(
        ctx: Any, x_NCHW: Tensor, _anchor: Tensor, layer: CohortConvolution, weight_KOIHW: Tensor, bias_KO: Tensor | None
    ) -> Tensor:
        runs, dtype = layer.shared.runs, layer.shared.product_dtype or x_NCHW.dtype
        # Not contiguous(): one channel is last already, and the library's output for it would be channels first.
        x_NCHW = x_NCHW.to(memory_format=_layout(x_NCHW, raw=not x_NCHW.requires_grad))
        ctx.save_for_backward(x_NCHW, weight_KOIHW)
        ctx.layer, ctx.runs = layer, runs
        images, kernels = torch.split(x_NCHW.to(dtype), list(runs.sizes)), weight_KOIHW.to(dtype).unbind()
        biases = [None] * len(kernels) if bias_KO is None else bias_KO.to(dtype).unbind()
        clients = zip(images, kernels, biases, strict=True)
        return joined([layer.by_library(x, weight, bias) for x, weight, bias in clients if len(x)]).to(x_NCHW.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NCHW, weight_KOIHW = ctx.saved_tensors
        g_NOHW = grads[0].contiguous(memory_format=_layout(x_NCHW))
        layer, runs = ctx.layer, ctx.runs
        if layer.names:
            layer.shared.tape.append(ConvolutionRecord(layer, runs, x_NCHW, g_NOHW, weight_KOIHW))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        dtype = layer.shared.product_dtype or x_NCHW.dtype
        images = (torch.split(image.to(dtype), list(runs.sizes)) for image in (g_NOHW, x_NCHW))
        clients = zip(*images, weight_KOIHW.to(dtype).unbind(), strict=True)
        into = joined([layer.transposed(g, x, weight, "x") for g, x, weight in clients if len(x)])
        return into.to(x_NCHW.dtype), None, None, None, None


class ConvolutionRecord(WeightRecord):
    """Images x and output gradients g; an example's gradient is that of a product of its windows (:class:`ProductRecord`).

    Windows are many times as large as images. They are copied out, some at a time, only if each example's own
    gradient is asked for; a sum over a client's examples is the library's.
    """

    def __init__(self, layer: CohortConvolution, runs: Runs, x_NCHW: Tensor, g_NOHW: Tensor, weight_KOIHW: Tensor) -> None:
        super().__init__(runs, layer.names)
        self.layer, self.x, self.g, self._kernels = layer, x_NCHW, g_NOHW, weight_KOIHW

    def and_also(self, others: Sequence[ConvolutionRecord]) -> Record:
        """See the contract; every example's gradient is written out."""
        every, found = [self, *others], dict[str, Tensor]()
        inputs, taps = self._kernels.shape[2], math.prod(self._kernels.shape[3:])
        if self.weight is not None:
            outer: Tensor = sum((one._written() for one in every[1:]), self._written())
            # A window's inputs are last in memory, a kernel's are first.
            found[self.weight] = outer.view(len(self.x), -1, taps, inputs).transpose(2, 3).reshape(outer.shape)
        if self.bias is not None:
            found[self.bias] = sum((one._bias_gradients() for one in every[1:]), self._bias_gradients())
        return ExamplesRecord(self.runs, found)

    def weight_square_norms(self) -> Tensor:
        """See the class."""
        squares = list[Tensor]()
        if ghost_pays(math.prod(self.g.shape[2:]), math.prod(self._kernels.shape[2:]), self._outputs):
            squares += [ghost_square_norms(g_NGLO, a_NGLP) for _, a_NGLP, g_NGLO in self._windows()]
        else:
            self._outer = self._written(squares)
        return torch.cat(squares)

    @property
    def _outputs(self) -> int:
        return self._kernels.shape[1] // self.layer.groups

    def _windows(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some examples at a time: which, their windows and their gradients, group by group."""
        positions, inputs = math.prod(self.g.shape[2:]), math.prod(self._kernels.shape[2:])
        some = max(1, _WINDOWS // (self.layer.groups * positions * inputs))
        for first in range(0, len(self.x), some):
            here = slice(first, first + some)
            a_NGLP = self.layer.grouped(unfold(self.x[here], self.layer.window), self._kernels.shape[2])
            yield here, a_NGLP, self.layer.grouped(self.g[here].flatten(2).transpose(1, 2), self._outputs)

    def _written(self, squares: list[Tensor] | None = None) -> Tensor:
        """Every example's weight gradient, shape (N, numel), as windows have it; its squared norms are added to a list."""
        outer = self.x.new_empty(len(self.x), self._kernels[0].numel())
        for here, a_NGLP, g_NGLO in self._windows():
            part = outer_products(g_NGLO, a_NGLP, outer[here])
            if squares is not None:
                # While it is in the caches.
                squares.append(square_lengths(part))
        return outer

    def drop(self, bad_N: Tensor) -> None:
        """See the contract."""
        super().drop(bad_N)
        if not self._written_out:
            self.x, self.g = without(self.x, bad_N), without(self.g, bad_N)

    def add(self, factors: Tensor | float, sums: Sums) -> None:
        """See the contract."""
        if self.weight is not None:
            self._add_weight(factors, sums[self.weight].view(self._kernels.shape))
        if self.bias is not None:
            add_rows(self.runs, self._bias_gradients(), factors, sums[self.bias])

    def _add_weight(self, factors: Tensor | float, sum_KOIHW: Tensor) -> None:
        if self._outer is not None:
            with windows_last(sum_KOIHW) as into:
                add_rows(self.runs, self._outer, factors, into.flatten(1))
            return
        alone = isinstance(factors, float)
        g_NOHW = self.g if alone else weighted(self.g, factors)
        images = (torch.split(image, list(self.runs.sizes)) for image in (g_NOHW, self.x))
        for sum_OIHW, g, x, kernel in zip(sum_KOIHW.unbind(), *images, self._kernels.unbind(), strict=True):
            if len(x):
                sum_OIHW.add_(self.layer.transposed(g, x, kernel, "weight"), alpha=factors if alone else 1.0)

    def _bias_gradients(self) -> Tensor:
        """Every example's bias gradient, shape (N, O)."""
        if self._summed is None:
            self._summed = self.g.sum((2, 3))
        return self._summed


def _layout(x_NCHW: Tensor, *, raw: bool = False) -> torch.memory_format:
    """The layout to compute in: channels last from raw images on, which most layers are fastest with.

    If they are first they stay first: a group norm puts them there.
    """
    first = not raw and x_NCHW.shape[1] > 1 and x_NCHW.is_contiguous()
    return torch.contiguous_format if first else torch.channels_last


def library_pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a call for each client is cheaper than a product for all; in float64 the library has no kernels of its own."""
    return device.type == "cpu" and dtype == torch.float32


def _pair(value: tuple[int, ...]) -> Pair:
    return (1, value[0]) if len(value) == 1 else (value[0], value[1])
