"""The rule for dropout: every client draws from its own stream.

If batches are padded to one length, a client draws for its padding too, and so draws other zeros than alone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from privfl.learning.training._rules import CohortLayer, Pass


class CohortDropout(CohortLayer):
    """The input times 0 with probability p, else times 1 / (1 − p); the kinds for channels drop whole channels."""

    rate: ClassVar[str] = "p"

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        assert isinstance(layer, nn.Dropout | nn.Dropout1d | nn.Dropout2d)
        self.p, self.channels = layer.p, not isinstance(layer, nn.Dropout)

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """See the contract."""
        return type(layer) in (nn.Dropout, nn.Dropout1d, nn.Dropout2d)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input. The draws are PyTorch's for a client's run from the same generator."""
        if not self.training or self.p == 0.0:
            return x
        self.require_rows(x)
        return dropped(x, self.p, self.shared, (*x.shape[:2], *[1] * (x.dim() - 2)) if self.channels else x.shape)


def dropped(x: Tensor, p: float, shared: Pass, shape: tuple[int, ...] | None = None) -> Tensor:
    """``x`` with zeros that each client draws from its own stream.

    Args:
        x: a row for each example.
        p: the probability of a zero, above 0.
        shared: whose generators are drawn from.
        shape: the shape of the draws, to be broadcast over ``x``; None: its own.
    """
    shape = shape or x.shape
    keep = torch.empty(shape, dtype=x.dtype, device=x.device)
    for (first, last), generator in zip(shared.runs.spans, shared.generators, strict=True):
        if last > first:
            keep[first:last] = x.new_empty((last - first, *shape[1:])).bernoulli_(1 - p, generator=generator)
    return x * keep if p == 1.0 else x * keep.div_(1 - p)


def rate_of(layer: nn.Module) -> str:
    """The name of the setting that holds a layer's probability of a zero; empty if it draws nothing."""
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return CohortDropout.rate
    return "dropout" if isinstance(layer, nn.MultiheadAttention | nn.RNNBase) else ""
