"""The steps of an LSTM: one product for the inputs of all steps, and one for each step's state.

A step's four gates are made of one pre-activation z_t = W_ih x_t + W_hh h_{t-1} + b_ih + b_hh, so that one gradient, dz_t, is
that of both products and of both biases. The backward pass is written by hand: it finds dz for all steps and leaves the two
products' records over T positions. Shapes: N examples, T steps, I inputs, H hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from privfl.learning.training._rules import CohortLayer, Runs
from privfl.learning.training._rules.products import ProductRecord, product_in


def lstm_steps(layer: CohortLayer, x_NTI: Tensor, suffix: str, start: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor]:
    """One layer of an LSTM in one direction over all steps: every step's state and cell, (N, T, H) each.

    Args:
        layer: whose parameters' names end in ``suffix``.
        x_NTI: sequences of one length.
        suffix: as PyTorch has it, ``_l0`` for the first layer.
        start: the state and the cell to start from, (N, H) each; None: zeros.
    """
    weights = [layer.weight(f"weight_{of}{suffix}") for of in ("ih", "hh")]
    biases = [layer.weight(f"bias_{of}{suffix}") for of in ("ih", "hh")]
    began = start or (None, None)
    found: tuple[Tensor, Tensor] = _Steps.apply(x_NTI, *began, layer.shared.anchor, layer, suffix, *weights, *biases)  # type: ignore[no-untyped-call]
    return found


class _Steps(torch.autograd.Function):
    """See :func:`lstm_steps`."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NTI: Tensor,
        h_NH: Tensor | None,
        c_NH: Tensor | None,
        _anchor: Tensor,
        layer: CohortLayer,
        suffix: str,
        inputs_KOI: Tensor,
        states_KOH: Tensor,
        *biases: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        shared, (examples, steps), hidden = layer.shared, x_NTI.shape[:2], states_KOH.shape[2]
        ctx.layer, ctx.suffix, ctx.runs, ctx.began = layer, suffix, shared.runs, h_NH is not None
        bias_KGO = biases[0] + biases[1] if biases[0] is not None and biases[1] is not None else None
        bias_KGO = None if bias_KGO is None else bias_KGO.unsqueeze(1)
        dtype = shared.product_dtype
        kernel = inputs_KOI.unsqueeze(1).transpose(2, 3)
        # First the pre-activations, then, step by step, the gates in their place.
        gates_NTO = product_in(dtype, shared.runs, x_NTI.unsqueeze(1), kernel, bias_KGO).squeeze(1)
        recurrence = _Recurrence(shared.runs, states_KOH.transpose(1, 2), dtype)
        # h and c begin one step early, with the given state or zeros.
        h, c = (x_NTI.new_empty(examples, steps + 1, hidden) for _ in "hc")
        for every, first_NH in ((h, h_NH), (c, c_NH)):
            every[:, 0] = 0.0 if first_NH is None else first_NH
        squashed = x_NTI.new_empty(examples, steps, hidden)
        hs, cs, squashes = h.unbind(1), c.unbind(1), squashed.unbind(1)
        for t, z_NO in enumerate(gates_NTO.unbind(1)):
            if t or ctx.began:
                recurrence.add_to(z_NO, hs[t])
            let_in, forget, new, let_out = z_NO.chunk(4, dim=1)
            z_NO[:, : 2 * hidden].sigmoid_()
            new.tanh_()
            let_out.sigmoid_()
            # c_t = f c_{t-1} + i g;  h_t = o tanh(c_t)
            torch.mul(forget, cs[t], out=cs[t + 1]).addcmul_(let_in, new)
            torch.tanh(cs[t + 1], out=squashes[t])
            torch.mul(let_out, squashes[t], out=hs[t + 1])
        ctx.save_for_backward(x_NTI, gates_NTO, h, c, squashed, inputs_KOI, states_KOH)
        ctx.set_materialize_grads(False)
        return h[:, 1:], c[:, 1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x_NTI, gates_NTO, h, c, squashed, inputs_KOI, states_KOH = ctx.saved_tensors
        layer, dtype = ctx.layer, ctx.layer.shared.product_dtype
        dh_NTH = torch.zeros_like(squashed) if grads[0] is None else grads[0].clone(memory_format=torch.contiguous_format)
        dc_NH = torch.zeros_like(squashed[:, 0])
        let_in, forget, new, let_out = gates_NTO.chunk(4, dim=2)
        # Whatever a step's dc and dh are: dz = (dc, dc, dc, dh) times this, and dc is dh times `through` more.
        dz_NTO = torch.empty_like(gates_NTO)
        dz_in, dz_forget, dz_new, dz_out = dz_NTO.chunk(4, dim=2)
        ops = torch.ops.aten
        ops.sigmoid_backward.grad_input(new, let_in, grad_input=dz_in)
        ops.sigmoid_backward.grad_input(c[:, :-1], forget, grad_input=dz_forget)
        ops.tanh_backward.grad_input(let_in, new, grad_input=dz_new)
        ops.sigmoid_backward.grad_input(squashed, let_out, grad_input=dz_out)
        through = ops.tanh_backward(let_out, squashed)
        recurrence = _Recurrence(ctx.runs, states_KOH, dtype)
        dhs, throughs, forgets, dzs, dz_outs = (part.unbind(1) for part in (dh_NTH, through, forget, dz_NTO, dz_out))
        of_cell = dz_NTO.view(*dz_NTO.shape[:2], 4, -1)[:, :, :3].unbind(1)
        for t in reversed(range(len(dhs))):
            if grads[1] is not None:
                dc_NH.add_(grads[1][:, t])
            dc_NH.addcmul_(dhs[t], throughs[t])
            of_cell[t].mul_(dc_NH.unsqueeze(1))
            dz_outs[t].mul_(dhs[t])
            if t:
                recurrence.add_to(dhs[t - 1], dzs[t])
                dc_NH.mul_(forgets[t])
        g = dz_NTO.unsqueeze(1)
        for of, a_NTP in (("ih", x_NTI), ("hh", h[:, :-1])):
            parts = layer.trained(weight=f"weight_{of}{ctx.suffix}", bias=f"bias_{of}{ctx.suffix}")
            if parts:
                layer.shared.tape.append(ProductRecord(ctx.runs, a_NTP.unsqueeze(1), g, parts))
        into: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            into[0] = product_in(dtype, ctx.runs, g, inputs_KOI.unsqueeze(1)).squeeze(1)
        if ctx.began:
            dh_NH = torch.zeros_like(dc_NH)
            recurrence.add_to(dh_NH, dzs[0])
            into[1], into[2] = dh_NH, dc_NH * forgets[0]
        return *into, *[None] * (len(ctx.needs_input_grad) - 3)


class _Recurrence:
    """Adds x_i W_k for each example i of client k, again and again with the same weights."""

    def __init__(self, runs: Runs, weight_KPO: Tensor, dtype: torch.dtype | None) -> None:
        self.runs, self.dtype = runs, dtype
        self.weight_KPO = weight_KPO if dtype is None else weight_KPO.to(dtype)

    def add_to(self, out_NO: Tensor, x_NP: Tensor) -> None:
        """In place."""
        if self.dtype is not None:
            out_NO += product_in(self.dtype, self.runs, x_NP[:, None, None], self.weight_KPO.unsqueeze(1)).view(out_NO.shape)
        elif self.runs.even:
            out_KBO, x_KBP = (value.view(len(self.weight_KPO), -1, value.shape[1]) for value in (out_NO, x_NP))
            out_KBO.baddbmm_(x_KBP, self.weight_KPO)
        else:
            parts = (torch.split(value, list(self.runs.sizes)) for value in (out_NO, x_NP))
            for out, x, weight in zip(*parts, self.weight_KPO.unbind(), strict=True):
                if len(out):
                    out.addmm_(x, weight)
