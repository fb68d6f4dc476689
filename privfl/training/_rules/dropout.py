"""The rule for dropout: every client draws from its own stream.

Where batches are padded to one length a client draws for its filling too, and so other zeros than alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from privfl.training._rules import CohortLayer, Pass


class CohortDropout(CohortLayer):
    """Zeros with probability p and 1 / (1 − p) elsewhere, times the input; of the channel kind, whole channels."""

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
        shape = (*x.shape[:2], *[1] * (x.dim() - 2)) if self.channels else x.shape
        keep = torch.empty(shape, dtype=x.dtype, device=x.device)
        for (first, last), generator in zip(self.shared.runs.spans, self.shared.generators, strict=True):
            if last > first:
                keep[first:last] = x.new_empty((last - first, *shape[1:])).bernoulli_(1 - self.p, generator=generator)
        return x * keep if self.p == 1.0 else x * keep.div_(1 - self.p)
