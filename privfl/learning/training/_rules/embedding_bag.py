"""The rule for ``nn.EmbeddingBag`` whose bags are the rows of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from privfl.errors import ModelError
from privfl.learning.training._rules import Pass
from privfl.learning.training._rules.embedding import CohortEmbedding


class CohortEmbeddingBag(CohortEmbedding):
    """The sum, the mean or the largest of an example's rows of client k's table; a padding is in no bag."""

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        assert isinstance(layer, nn.EmbeddingBag)
        self.mode = layer.mode

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """A table that rescales its rows is left to others, and so are gradients that are scaled by frequency.

        PyTorch's own divides these by other counts than a table's.
        """
        return type(layer) is nn.EmbeddingBag and layer.max_norm is None and not layer.scale_grad_by_freq

    def forward(self, ids_NL: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """(N, L) -> (N, width), with a weight for each word if the mode is "sum".

        Raises:
            ModelError: bags come one after another, in one vector.
        """
        if ids_NL.dim() != 2 or offsets is not None:
            raise ModelError(
                "nn.EmbeddingBag is given offsets; give it a matrix with a row for each example, and a padding_idx"
            )
        rows_NLE = super().forward(ids_NL)
        if per_sample_weights is not None:
            rows_NLE = rows_NLE * per_sample_weights.unsqueeze(2)
        there_NL1 = torch.ones_like(ids_NL, dtype=torch.bool) if self.padding_idx is None else ids_NL != self.padding_idx
        there_NL1 = there_NL1.unsqueeze(2)
        if self.mode == "max":
            largest_NE = rows_NLE.masked_fill(~there_NL1, -torch.inf).max(1).values
            return largest_NE.where(there_NL1.any(1), 0.0)
        summed_NE = rows_NLE.masked_fill(~there_NL1, 0.0).sum(1)
        return summed_NE / there_NL1.sum(1).clamp(min=1) if self.mode == "mean" else summed_NE
