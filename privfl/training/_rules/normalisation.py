"""The rule for normalisations of single examples: ``nn.GroupNorm``, ``nn.LayerNorm`` and ``nn.RMSNorm``.

The normalisation itself has no parameters and does not see clients; scale and shift are a client's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from privfl.training._rules import CohortLayer, Pass
from privfl.training._rules.examples import ExamplesRecord


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
        return type(layer) in (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        match self.layer:
            case nn.GroupNorm(num_groups=groups, eps=eps):
                normalised, first = functional.group_norm(x, groups, None, None, eps), 1
            case nn.LayerNorm(eps=eps):
                normalised, first = functional.layer_norm(x, self.shape, None, None, eps), x.dim() - len(self.shape)
            case _:
                normalised = functional.rms_norm(x, list(self.shape), None, self.layer.eps)
                first = x.dim() - len(self.shape)
        weight_KS, bias_KS = self.weight("weight"), self.weight("bias")
        if weight_KS is None:
            return normalised
        client_N = self.shared.runs.clients(x.device)
        # (K, *shape) -> one for each example, ready to be broadcast over the dimensions that are not the parameter's.
        view = (len(x), *[1] * (first - 1), *self.shape, *[1] * (x.dim() - first - len(self.shape)))
        weight = weight_KS[client_N].view(view)
        bias = None if bias_KS is None else bias_KS[client_N].view(view)
        return _Affine.apply(normalised, self.shared.anchor, self, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


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
        ctx.layer.shared.tape.append(ExamplesRecord(ctx.runs, own))
        return g * weight, None, None, None, None


def _sum(x: Tensor, over: list[int]) -> Tensor:
    return x.sum(over) if over else x
