"""The rule for normalisations of single examples: ``nn.GroupNorm``, ``nn.LayerNorm`` and ``nn.RMSNorm``.

The normalisation itself has no parameters and does not see clients; scale and shift are a client's own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from privfl.learning.training._rules import CohortLayer, Pass
from privfl.learning.training._rules.examples import ExamplesRecord
from privfl.learning.training._rules.products import joined

_BLOCKS = 65_535
"""Groups of all examples that go into one call backward: as many as a GPU's grid is wide."""


class CohortNormalisation(CohortLayer):
    """``normalised(x) · w_k + b_k`` for the examples of client k."""

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        assert isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)
        self.layer = layer
        self.shape = (layer.num_channels,) if isinstance(layer, nn.GroupNorm) else tuple(layer.normalized_shape)

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """See the contract."""
        if type(layer) is nn.GroupNorm and (layer.weight is None) != (layer.bias is None):
            return False
        return type(layer) in (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        weight_KS, bias_KS = self.weight("weight"), self.weight("bias")
        if isinstance(self.layer, nn.GroupNorm):
            if weight_KS is None:
                return functional.group_norm(x, self.layer.num_groups, None, None, self.layer.eps)
            return _GroupNorm.apply(x, self.shared.anchor, self, weight_KS, bias_KS)  # type: ignore[no-any-return, no-untyped-call]
        if isinstance(self.layer, nn.LayerNorm):
            normalised = functional.layer_norm(x, self.shape, None, None, self.layer.eps)
        else:
            normalised = functional.rms_norm(x, list(self.shape), None, self.layer.eps)
        if weight_KS is None:
            return normalised
        first, client_N = x.dim() - len(self.shape), self.shared.runs.clients(x.device)
        # (K, *shape) -> one for each example, ready to be broadcast over the dimensions that are not the parameter's.
        view = (len(x), *[1] * (first - 1), *self.shape, *[1] * (x.dim() - first - len(self.shape)))
        weight = weight_KS[client_N].view(view)
        bias = None if bias_KS is None else bias_KS[client_N].view(view)
        return _Affine.apply(normalised, self.shared.anchor, self, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


class _GroupNorm(torch.autograd.Function):
    """The library's kernel, to which N examples of C channels are one example of N · C channels, each with a scale and a shift.

    So it finds the gradients of every example's own scale and shift along with that of the input. It works with channels first,
    several times as fast as with channels last, and leaves them first.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, layer: CohortNormalisation, weight_KC: Tensor, bias_KC: Tensor) -> Tensor:
        assert isinstance(layer.layer, nn.GroupNorm)
        runs, first = layer.shared.runs, x.contiguous()
        client_N = runs.clients(x.device)
        scales, shifts = (of_KC[client_N].flatten() for of_KC in (weight_KC, bias_KC))
        channels, positions, groups = len(scales), math.prod(x.shape[2:]), len(x) * layer.layer.num_groups
        out, mean, spread = torch.native_group_norm(
            first.view(1, channels, positions), scales, shifts, 1, channels, positions, groups, layer.layer.eps
        )
        ctx.positions = positions
        ctx.save_for_backward(first, mean, spread, scales)
        ctx.layer, ctx.runs = layer, runs
        # A model could not write into an output that is a view, as residual networks do.
        return torch.ops.aten._unsafe_view(out, x.shape)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, mean, spread, scales = ctx.saved_tensors
        of_each = [values.view(len(first), -1) for values in (grads[0].contiguous(), first, mean, spread, scales)]
        some = max(1, _BLOCKS // of_each[2].shape[1])
        parts = zip(*(torch.split(values, some) for values in of_each), strict=True)
        found = [_gradients(ctx.positions, *part) for part in parts]
        into, *own = (joined(part) for part in zip(*found, strict=True))
        names = ctx.layer.names
        gradients = {names[kind]: value for kind, value in zip(("weight", "bias"), own, strict=True) if kind in names}
        if gradients:
            ctx.layer.shared.tape.append(ExamplesRecord(ctx.runs, gradients))
        return into.view(first.shape), None, None, None, None


def _gradients(positions: int, g: Tensor, x: Tensor, mean_NG: Tensor, spread_NG: Tensor, scale_NC: Tensor) -> list[Tensor]:
    """Gradients of inputs, scales and shifts, with an example in each row."""
    channels, groups = scale_NC.numel(), mean_NG.numel()
    flat, norms = (1, channels, positions), (mean_NG.view(1, groups), spread_NG.view(1, groups), scale_NC.flatten())
    found = torch.ops.aten.native_group_norm_backward(g.reshape(flat), x.reshape(flat), *norms, *flat, groups, [True] * 3)
    return [values.view(len(x), -1) for values in found]


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, _anchor: Tensor, layer: CohortNormalisation, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.runs = layer, layer.shared.runs
        return x * weight if bias is None else torch.addcmul(bias, x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        over = [axis for axis in range(1, x.dim()) if weight.shape[axis] == 1 and x.shape[axis] != 1]
        names, g = ctx.layer.names, grads[0]
        values = {"weight": g * x, "bias": g}
        own = {name: _sum(values[key], over).reshape(len(x), -1) for key, name in names.items()}
        if own:
            ctx.layer.shared.tape.append(ExamplesRecord(ctx.runs, own))
        return g * weight, None, None, None, None


def _sum(x: Tensor, over: list[int]) -> Tensor:
    return x.sum(over) if over else x
