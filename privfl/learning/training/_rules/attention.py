"""The rule for ``nn.MultiheadAttention``: products for its inputs and its output; nothing between has parameters.

Queries, keys and values mostly share one parameter, a third of its rows each. Inputs that are one tensor, all three
in self-attention, then go through as one product. Shapes: N examples, L queries, S keys, E the width.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from privfl.errors import ModelError
from privfl.learning.training._rules import CohortLayer, Pass, require_rows, whole
from privfl.learning.training._rules.dropout import dropped
from privfl.learning.training._rules.linear import CohortLinear
from privfl.learning.training._rules.products import RowsRecord, product_in

_KINDS = ("q", "k", "v")


class CohortAttention(CohortLayer):
    """The attention of client k over the sequences of client k."""

    rate: ClassVar[str] = "dropout"

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        assert isinstance(layer, nn.MultiheadAttention)
        self.num_heads, self.embed_dim, self.dropout = layer.num_heads, layer.embed_dim, layer.dropout
        self.one_width, self.examples_first = layer._qkv_same_embed_dim, layer.batch_first
        self.out_proj = CohortLinear(layer.out_proj, f"{prefix}.out_proj" if prefix else "out_proj", shared)
        # PyTorch's transformer layers ask for both; without the bias they leave their shortcuts alone.
        self.batch_first, self.in_proj_bias = True, None

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """All but attention with keys of its own."""
        return type(layer) is nn.MultiheadAttention and layer.bias_k is None and not layer.add_zero_attn

    def require_rows(self, x: Tensor) -> None:
        """See the contract; the batch may come second."""
        rows = x.shape[0 if self.examples_first or x.dim() != 3 else 1]
        require_rows("nn.MultiheadAttention", rows, self.shared.runs.examples)

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
        """(N, L, E), (N, S, E), (N, S, E) -> (N, L, E), and the weights, if needed, (N, L, S) or for each head.

        Raises:
            ModelError: the inputs are no batches of sequences, or ``is_causal`` comes without the mask that it is a hint for.
        """
        inputs = (query, key, value)
        if any(x.dim() != 3 for x in inputs):
            raise ModelError("nn.MultiheadAttention is given no batch; the fused engine takes (examples, positions, width)")
        if is_causal and attn_mask is None:
            raise ModelError("nn.MultiheadAttention is given is_causal without an attn_mask; give it the mask")
        if not self.examples_first:
            # Inputs that are one tensor stay one.
            turned = {id(x): x.transpose(0, 1) for x in inputs}
            inputs = (turned[id(query)], turned[id(key)], turned[id(value)])
        q, k, v = (x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in self._project(*inputs))
        mask = self._mask(attn_mask, key_padding_mask, q.dtype)
        # Not the library's own dropout, which draws for all clients from one generator.
        weights = self._weights(q, k, mask) if need_weights or self._drops else None
        if self._drops and weights is not None:
            mixed = torch.matmul(weights, v)
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out if self.examples_first else whole(out.transpose(0, 1))
        if not need_weights or weights is None:
            return out, None
        return out, weights.mean(1) if average_attn_weights else weights

    @property
    def _drops(self) -> bool:
        return self.dropout > 0 and self.training

    def _weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √d + mask), some of them made zeros."""
        scores = torch.matmul(q * q.shape[3] ** -0.5, k.transpose(2, 3))
        weights = torch.softmax(scores if mask is None else scores + mask, dim=3)
        return dropped(weights, self.dropout, self.shared) if self._drops else weights

    def _project(self, *inputs: Tensor) -> list[Tensor]:
        bias_KO = self.weight("in_proj_bias")
        if self.one_width:
            # Neighbours that are one tensor are projected together.
            groups = [list(group) for _, group in groupby(inputs, key=id)]
            weights = [self.weight("in_proj_weight")]
        else:
            groups = [[x] for x in inputs]
            weights = [self.weight(f"{kind}_proj_weight") for kind in _KINDS]
        counts = [len(group) for group in groups]
        distinct = [group[0] for group in groups]
        projected = _Projections.apply(self.shared.anchor, self, counts, bias_KO, *distinct, *weights)  # type: ignore[no-untyped-call]
        return [part for wide, count in zip(projected, counts, strict=True) for part in wide.chunk(count, dim=2)]

    def parts(self, place: int) -> dict[str, str]:
        """The trained parameters of the product at that place."""
        weight = "in_proj_weight" if self.one_width else f"{_KINDS[place]}_proj_weight"
        return self.trained(weight=weight, bias="in_proj_bias")

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """The term that is added to the scores, to be broadcast to (N, heads, L, S)."""
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
    """Each input times its matrix: one of its own, or ``counts[j]`` thirds of the only one for the j-th."""

    @staticmethod
    def forward(
        ctx: Any, _anchor: Tensor, layer: CohortAttention, counts: list[int], bias_KO: Tensor | None, *given: Tensor
    ) -> tuple[Tensor, ...]:
        width, shared, inputs = layer.embed_dim, layer.shared, given[: len(counts)]
        ends = [0]
        for count in counts:
            ends.append(ends[-1] + count * width)
        ctx.layer, ctx.runs, ctx.rows = layer, shared.runs, [slice(*ends_of) for ends_of in pairwise(ends)]
        ctx.save_for_backward(*given)
        kernels = _kernels(layer, given[len(counts) :], ctx.rows)
        out = []
        for x_NLP, kernel, rows in zip(inputs, kernels, ctx.rows, strict=True):
            bias_KGO = None if bias_KO is None else bias_KO[:, None, rows]
            out.append(
                product_in(shared.product_dtype, shared.runs, x_NLP.unsqueeze(1), kernel.transpose(2, 3), bias_KGO).squeeze(1)
            )
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, number, into = ctx.layer, len(ctx.rows), list[Tensor | None]()
        inputs, kernels = ctx.saved_tensors[:number], _kernels(layer, ctx.saved_tensors[number:], ctx.rows)
        met: set[str] = set()
        for j, (x_NLP, kernel, g_NLO, rows) in enumerate(zip(inputs, kernels, grads, ctx.rows, strict=True)):
            a, g, parts = x_NLP.unsqueeze(1), g_NLO.unsqueeze(1), layer.parts(j)
            if parts:
                own = {"weight": rows if layer.one_width else slice(None), "bias": rows}
                fresh = [name for name in parts.values() if name not in met]
                met.update(fresh)
                layer.shared.tape.append(RowsRecord(ctx.runs, a, g, parts, own, fresh))
            wanted = ctx.needs_input_grad[4 + j]
            into.append(product_in(layer.shared.product_dtype, ctx.runs, g, kernel).squeeze(1) if wanted else None)
        return None, None, None, None, *into, *[None] * (len(ctx.saved_tensors) - number)


def _kernels(layer: CohortAttention, weights: tuple[Tensor, ...], rows: list[slice]) -> list[Tensor]:
    """The matrix of each product, (K, 1, O, P)."""
    if layer.one_width:
        return [weights[0][:, None, own] for own in rows]
    return [weight_KOP.unsqueeze(1) for weight_KOP in weights]
