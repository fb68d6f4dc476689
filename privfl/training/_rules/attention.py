"""The rule for ``nn.MultiheadAttention``: products for what goes in and what comes out; between them nothing has parameters.

Queries, keys and values share one parameter, a third of its rows each. What is one tensor, all three in self-attention, goes
through as one product. Shapes: N examples, L queries, S keys, E the width.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from privfl.errors import ModelError
from privfl.training._rules import CohortLayer, Pass
from privfl.training._rules.linear import CohortLinear
from privfl.training._rules.products import RowsRecord, product_in


class CohortAttention(CohortLayer):
    """The attention of client k over the sequences of client k."""

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        assert isinstance(layer, nn.MultiheadAttention)
        self.num_heads, self.embed_dim = layer.num_heads, layer.embed_dim
        self.own = {kind: self.names[f"in_proj_{kind}"] for kind in ("weight", "bias") if f"in_proj_{kind}" in self.names}
        self.out_proj = CohortLinear(layer.out_proj, f"{prefix}.out_proj" if prefix else "out_proj", shared)
        # PyTorch's transformer layers ask for both; without the bias they leave their shortcuts alone.
        self.batch_first, self.in_proj_bias = True, None

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """One width, examples first, without dropout and without keys of its own."""
        if type(layer) is not nn.MultiheadAttention:
            return False
        more = layer.dropout or layer.bias_k is not None or layer.add_zero_attn
        return bool(layer.batch_first and layer._qkv_same_embed_dim and not more)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(N, L, E), (N, S, E), (N, S, E) -> (N, L, E), and the weights, where they are needed, (N, L, S) or for each head.

        Raises:
            ModelError: the inputs are no batches of sequences, or ``is_causal`` comes without the mask that it is a hint for.
        """
        if any(x.dim() != 3 for x in (query, key, value)):
            raise ModelError("nn.MultiheadAttention is given no batch; the fused engine takes (examples, positions, width)")
        if is_causal and attn_mask is None:
            raise ModelError("nn.MultiheadAttention is given is_causal without an attn_mask; give it the mask")
        q, k, v = (x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in self._project(query, key, value))
        mask = self._mask(attn_mask, key_padding_mask, q.dtype)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not need_weights:
            return out, None
        # softmax(q kᵀ / √d + mask)
        scores = torch.matmul(q * q.shape[3] ** -0.5, k.transpose(2, 3))
        weights = torch.softmax(scores if mask is None else scores + mask, dim=3)
        return out, weights.mean(1) if average_attn_weights else weights

    def _project(self, *inputs: Tensor) -> list[Tensor]:
        weight_KOE, bias_KO = self.weight("in_proj_weight"), self.weight("in_proj_bias")
        # Neighbours that are one tensor are projected together.
        groups = [list(group) for _, group in groupby(inputs, key=id)]
        counts = [len(group) for group in groups]
        distinct = [group[0] for group in groups]
        projected = _Projections.apply(self.shared.anchor, self, counts, weight_KOE, bias_KO, *distinct)  # type: ignore[no-untyped-call]
        return [part for whole, count in zip(projected, counts, strict=True) for part in whole.chunk(count, dim=2)]

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores, to be broadcast to (N, heads, L, S)."""
        masks = []
        if attn_mask is not None:
            by_example = attn_mask.dim() == 3
            masks.append(attn_mask.view(-1, self.num_heads, *attn_mask.shape[1:]) if by_example else attn_mask)
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None])
        terms = [
            torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask.to(dtype)
            for mask in masks
        ]
        return sum(terms[1:], start=terms[0]) if terms else None


class _Projections(torch.autograd.Function):
    """Each input times its rows of the parameter: ``counts[j]`` thirds of them for the j-th."""

    @staticmethod
    def forward(
        ctx: Any, _anchor: Tensor, layer: CohortAttention, counts: list[int], weight_KOE: Tensor, bias_KO: Any, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        width, shared = layer.embed_dim, layer.shared
        ends = [0]
        for count in counts:
            ends.append(ends[-1] + count * width)
        ctx.layer, ctx.runs, ctx.rows = layer, shared.runs, [slice(*ends_of) for ends_of in pairwise(ends)]
        ctx.save_for_backward(weight_KOE, *inputs)
        out = []
        for x_NLE, rows in zip(inputs, ctx.rows, strict=True):
            kernel = weight_KOE[:, None, rows].transpose(2, 3)
            bias_KGO = None if bias_KO is None else bias_KO[:, None, rows]
            out.append(product_in(shared.product_dtype, shared.runs, x_NLE.unsqueeze(1), kernel, bias_KGO).squeeze(1))
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight_KOE, *inputs = ctx.saved_tensors
        layer, into = ctx.layer, list[Tensor | None]()
        for j, (x_NLE, g_NLO, rows) in enumerate(zip(inputs, grads, ctx.rows, strict=True)):
            a, g = x_NLE.unsqueeze(1), g_NLO.unsqueeze(1)
            layer.shared.tape.append(RowsRecord(ctx.runs, a, g, layer.own, rows, named=j == 0))
            wanted = ctx.needs_input_grad[5 + j]
            kernel = weight_KOE[:, None, rows]
            into.append(product_in(layer.shared.product_dtype, ctx.runs, g, kernel).squeeze(1) if wanted else None)
        return None, None, None, None, None, *into
