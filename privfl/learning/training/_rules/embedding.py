"""The rule for ``nn.Embedding``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from privfl.learning.training._rules import CohortLayer, Pass, Record, Runs, Sums, whole
from privfl.learning.training._rules.products import weighted, without

_ROUNDING = 16


class CohortEmbedding(CohortLayer):
    """Rows of client k's table for the examples of client k."""

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        assert isinstance(layer, nn.Embedding | nn.EmbeddingBag)
        self.padding_idx, self.scale_grad_by_freq = layer.padding_idx, layer.scale_grad_by_freq

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """A table that rescales its rows is left to others."""
        return type(layer) is nn.Embedding and layer.max_norm is None

    def forward(self, ids: Tensor) -> Tensor:
        """(N, *) -> (N, *, width)."""
        table_KVE = self.weight("weight")
        assert table_KVE is not None
        rows_NL = ids.reshape(len(ids), -1)
        out: Tensor = _Lookup.apply(rows_NL, self.shared.anchor, self, table_KVE)  # type: ignore[no-untyped-call]
        return whole(out.view(*ids.shape, table_KVE.shape[2]))


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_NL: Tensor, _anchor: Tensor, layer: CohortEmbedding, table_KVE: Tensor) -> Tensor:
        ctx.save_for_backward(rows_NL)
        ctx.layer, ctx.runs = layer, layer.shared.runs
        return table_KVE[ctx.runs.clients(rows_NL.device)[:, None], rows_NL]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        (rows_NL,) = ctx.saved_tensors
        g_NLE, padding = grads[0], ctx.layer.padding_idx
        if padding is not None:
            g_NLE = g_NLE.masked_fill((rows_NL == padding).unsqueeze(2), 0.0)
        if ctx.layer.scale_grad_by_freq:
            # By how often a row comes in the example, as if the example were alone in its batch.
            g_NLE = g_NLE / (rows_NL.unsqueeze(1) == rows_NL.unsqueeze(2)).sum(2, keepdim=True)
        if ctx.layer.names:
            ctx.layer.shared.tape.append(LookupRecord(ctx.runs, rows_NL, g_NLE, ctx.layer.names["weight"]))
        return None, None, None, None


class LookupRecord(Record):
    """An example's gradient has g_l added to row r_l; ‖·‖² = Σ_lm [r_l = r_m] g_l · g_m (Li et al. 2022, section 4)."""

    def __init__(self, runs: Runs, rows_NL: Tensor, g_NLE: Tensor, name: str) -> None:
        self.runs, self.rows, self.g, self.name, self.names = runs, rows_NL, g_NLE, name, (name,)

    def and_also(self, others: Sequence[LookupRecord]) -> LookupRecord:
        """See the contract: more lookups."""
        every = [self, *others]
        rows, g = (torch.cat([getattr(one, part) for one in every], dim=1) for part in ("rows", "g"))
        return LookupRecord(self.runs, rows, g, self.name)

    def square_norms(self) -> Tensor:
        """See the class; increased by the most that rounding may have taken away, as for products.

        If the sum overflows, to either side, so does the increase.
        """
        same_NLL = self.rows.unsqueeze(1) == self.rows.unsqueeze(2)
        gram_NLL: Tensor = torch.bmm(self.g, self.g.transpose(1, 2))
        slack_N: Tensor = self.g.norm(dim=2).sum(1).square() * (_ROUNDING * torch.finfo(self.g.dtype).eps)
        return (gram_NLL * same_NLL).sum((1, 2)).clamp(min=0.0) + slack_N

    def drop(self, bad_N: Tensor) -> None:
        """See the contract."""
        self.g = without(self.g, bad_N)

    def add(self, factors: Tensor | float, sums: Sums) -> None:
        """See the contract."""
        table_KVE = sums[self.name]
        g = weighted(self.g, factors)
        clients_NL = self.runs.clients(self.rows.device)[:, None].expand_as(self.rows)
        table_KVE.index_put_((clients_NL, self.rows), g.to(table_KVE.dtype), accumulate=True)
