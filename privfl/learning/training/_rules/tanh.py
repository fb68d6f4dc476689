"""The rule for ``nn.Tanh``, which has no parameters, but can take as long as a convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from privfl.learning.models._tanh import tanh_by_sigmoid
from privfl.learning.training._rules import CohortLayer


class CohortTanh(CohortLayer):
    """``tanh(x)``; in float32 on a CPU by σ (:func:`privfl.learning.models._tanh.tanh_by_sigmoid`)."""

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """See the contract."""
        return type(layer) is nn.Tanh

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        by_sigmoid = x.device.type == "cpu" and (self.shared.ways_of or x.dtype) == torch.float32
        out: Tensor = _Tanh.apply(x, by_sigmoid)  # type: ignore[no-untyped-call]
        return out


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, by_sigmoid: bool) -> Tensor:
        # A float64 input that stands for a float32 input is rounded as that would be.
        out = tanh_by_sigmoid(x.float()).to(x.dtype) if by_sigmoid else x.tanh()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        into: Tensor = torch.ops.aten.tanh_backward(grads[0], out)
        return into, None
