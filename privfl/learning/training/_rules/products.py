"""Matrix products in which every client has its own matrix; the arithmetic of linear layers and convolutions.

Shapes: N examples, G groups, L positions (1 for a plain linear layer), P inputs and O outputs of a product.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from privfl.learning.training._rules import CohortLayer, Record, Runs, Sums

_GHOST_PAYS = 4
"""Writing and reading one number of an example's gradient costs as much as this many multiplications (measured)."""

_FEW_ROWS = 64
"""A client's rows up to which a CPU is faster with the matrix, as PyTorch keeps it, on the left (measured)."""

_AT_ONCE = 1024
"""Squares that are added up in their own type."""

_ROUNDING = 16
"""Safety of a norm that was computed from Gram matrices, in units of the last place; see :func:`ghost_square_norms`."""


def product(runs: Runs, a_NGLP: Tensor, weight_KGPO: Tensor, bias_KGO: Tensor | None = None) -> Tensor:
    """a_i · W_k + b_k for each example i of client k.

    Returns:
        shape (N, G, L, O).
    """
    if runs.even:
        return _even_product(a_NGLP, weight_KGPO, bias_KGO)
    examples, groups, positions, _ = a_NGLP.shape
    out = a_NGLP.new_empty(examples, groups, positions, weight_KGPO.shape[-1])
    if groups > 1:
        for k, (first, last) in enumerate(runs.spans):
            if last > first:
                bias = None if bias_KGO is None else bias_KGO[k : k + 1]
                out[first:last] = _even_product(a_NGLP[first:last], weight_KGPO[k : k + 1], bias)
        return out
    # All views at once: made one by one they take as long as the products of a small model.
    parts = zip(_split_rows(a_NGLP, runs), weight_KGPO[:, 0].unbind(), _split_rows(out, runs), strict=True)
    if bias_KGO is None:
        for a_RP, weight_PO, out_RO in parts:
            torch.mm(a_RP, weight_PO, out=out_RO)
    else:
        for (a_RP, weight_PO, out_RO), bias_O in zip(parts, bias_KGO[:, 0].unbind(), strict=True):
            torch.addmm(bias_O, a_RP, weight_PO, out=out_RO)
    return out


def product_in(
    dtype: torch.dtype | None, runs: Runs, a_NGLP: Tensor, weight_KGPO: Tensor, bias_KGO: Tensor | None = None
) -> Tensor:
    """:func:`product` of factors that are rounded to ``dtype``, as the input's own type; None: as they are."""
    if dtype is None:
        return product(runs, a_NGLP, weight_KGPO, bias_KGO)
    bias = None if bias_KGO is None else bias_KGO.to(dtype)
    return product(runs, a_NGLP.to(dtype), weight_KGPO.to(dtype), bias).to(a_NGLP.dtype)


def add_outer(runs: Runs, g_NGLO: Tensor, a_NGLP: Tensor, factors: Tensor | float, sum_KGOP: Tensor) -> None:
    """Add Σ_i factor_i g_iᵀ a_i over each client's examples and positions to ``sum_KGOP``, in place."""
    alpha = 1.0
    if isinstance(factors, Tensor):
        g_NGLO = weighted(g_NGLO, factors)
    else:
        alpha = factors
    clients, groups = sum_KGOP.shape[:2]
    if runs.even and groups == 1:
        g_KRO, a_KRP = (x.reshape(clients, -1, x.shape[-1]) for x in (g_NGLO, a_NGLP))
        sum_KGOP[:, 0].baddbmm_(g_KRO.transpose(1, 2), a_KRP, alpha=alpha)
        return
    if runs.even:
        g_KGRO, a_KGRP = (x.view(clients, -1, *x.shape[1:]).transpose(1, 2).flatten(2, 3) for x in (g_NGLO, a_NGLP))
        sum_KGOP.add_(torch.matmul(g_KGRO.transpose(2, 3), a_KGRP), alpha=alpha)
        return
    for group in range(groups):
        rows = (_split_rows(x[:, group : group + 1], runs) for x in (g_NGLO, a_NGLP))
        for sum_OP, g_RO, a_RP in zip(sum_KGOP[:, group].unbind(), *rows, strict=True):
            sum_OP.addmm_(g_RO.t(), a_RP, alpha=alpha)


def add_rows(runs: Runs, values_NM: Tensor, factors: Tensor | float, sum_KM: Tensor) -> None:
    """Add Σ_i factor_i · values_i over each client's examples to ``sum_KM``, in place."""
    factors_N = factors if isinstance(factors, Tensor) else values_NM.new_full((len(values_NM),), factors)
    if runs.even:
        clients = len(runs.sizes)
        values_KBM = values_NM.reshape(clients, -1, values_NM.shape[-1])
        sum_KM.unsqueeze(1).baddbmm_(factors_N.view(clients, 1, -1), values_KBM)
        return
    sizes = list(runs.sizes)
    parts = zip(torch.split(sum_KM, 1), torch.split(factors_N[None], sizes, 1), torch.split(values_NM, sizes), strict=True)
    for sum_1M, factors_1B, values_BM in parts:
        sum_1M.addmm_(factors_1B, values_BM)


@contextmanager
def windows_last(weight_KOI: Tensor) -> Iterator[Tensor]:
    """The same sums, (K, O, inputs, *taps), with the inputs last; additions to them reach ``weight_KOI``.

    A window's inputs are last in memory, a kernel's are first.
    """
    inputs, taps = weight_KOI.shape[2], math.prod(weight_KOI.shape[3:])
    if min(inputs, taps) == 1:
        yield weight_KOI
        return
    into = weight_KOI.new_zeros(weight_KOI.shape)
    yield into
    weight_KOI += into.view(*weight_KOI.shape[:2], taps, inputs).transpose(2, 3).reshape(weight_KOI.shape)


def outer_products(g_NGLO: Tensor, a_NGLP: Tensor, out_ND: Tensor | None = None) -> Tensor:
    """Every example's weight gradient Σ_l g_lᵀ a_l, written out, shape (N, G·O·P)."""
    examples, groups, _, outputs = g_NGLO.shape
    each = (examples * groups, outputs, a_NGLP.shape[3])
    out = None if out_ND is None else out_ND.view(each)
    products = torch.bmm(g_NGLO.flatten(0, 1).transpose(1, 2), a_NGLP.flatten(0, 1), out=out)
    return products.view(examples, groups * outputs * a_NGLP.shape[3])


def ghost_pays(positions: int, inputs: int, outputs: int) -> bool:
    """Whether Gram matrices are cheaper than gradients that are written out."""
    return positions**2 * (inputs + outputs) <= _GHOST_PAYS * inputs * outputs


def ghost_square_norms(g_NGLO: Tensor, a_NGLP: Tensor) -> Tensor:
    """‖Σ_l g_lᵀ a_l‖² = Σ_lm (a_l · a_m)(g_l · g_m), never too small, shape (N,), float64.

    If positions cancel, rounding could make the norm too small, and the clipped gradient too long. The sum of the
    terms' sizes is at most (Σ_l ‖a_l‖‖g_l‖)²; a few units of its last place are added. Products of tiny numbers vanish, while
    the other factor may be huge: a_l · a_m loses at most P times the smallest number, and counts |g_l · g_m| times.
    """
    grams = [torch.matmul(x, x.transpose(2, 3)) for x in (a_NGLP, g_NGLO)]
    ghost_N: Tensor = (grams[0] * grams[1]).sum((1, 2, 3)).double()
    lengths_a, lengths_g = (square_lengths(x).sqrt() for x in (a_NGLP, g_NGLO))
    kind = torch.finfo(a_NGLP.dtype)
    rounded_N = (lengths_a * lengths_g).sum(2).square().sum(1) * (_ROUNDING * kind.eps)
    vanished_N = lengths_g.sum(2).square().sum(1) * a_NGLP.shape[3] + lengths_a.sum(2).square().sum(1) * g_NGLO.shape[3]
    slack_N: Tensor = rounded_N + vanished_N * kind.tiny
    # A sum that overflowed is no small number, whatever its sign.
    return ghost_N.nan_to_num(torch.inf, torch.inf, torch.inf).clamp(min=0.0) + slack_N


def square_lengths(x: Tensor, axes: int = 1) -> Tensor:
    """‖x‖² over the last axes, never too small but for rounding, in float64.

    The square of a tiny number vanishes, and its later factor may be huge. A sum of many squares is rounded in one
    direction if they are alike, by 2e-5 for 30,000 of them; so blocks are added up in their own type and their sums in
    float64. Asked for float64 at once, the library would copy everything into it first.
    """
    flat = x.flatten(-axes)
    vanished = flat.shape[-1] * torch.finfo(x.dtype).tiny
    blocks, rest = divmod(flat.shape[-1], _AT_ONCE)
    found = []
    if rest or not blocks:
        found.append(torch.linalg.vector_norm(flat[..., blocks * _AT_ONCE :], dim=-1).double().square())
    if blocks:
        parts = flat[..., : blocks * _AT_ONCE].view(*flat.shape[:-1], blocks, _AT_ONCE)
        found.append(torch.linalg.vector_norm(parts, dim=-1).double().square().sum(-1))
    total: Tensor = sum(found[1:], start=found[0]) + vanished
    return total


def weighted(values: Tensor, factors: Tensor | float) -> Tensor:
    """Each example's values times its factor."""
    return values * (factors.view(-1, *[1] * (values.dim() - 1)) if isinstance(factors, Tensor) else factors)


def without(values: Tensor, bad_N: Tensor) -> Tensor:
    """The values with those of some examples made zero."""
    return values.masked_fill(bad_N.view(-1, *[1] * (values.dim() - 1)), 0.0)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """All rows, copied only if there is more than one part."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Product(torch.autograd.Function):
    """:func:`product` whose backward pass leaves a :class:`ProductRecord` instead of a gradient of the weights."""

    @staticmethod
    def forward(ctx: Any, a_NGLP: Tensor, _anchor: Tensor, layer: CohortLayer, weight_KGOP: Tensor, bias_KGO: Any) -> Tensor:
        """See :func:`product`; the weights come as PyTorch keeps them, outputs first."""
        ctx.save_for_backward(a_NGLP, weight_KGOP)
        ctx.layer, ctx.runs = layer, layer.shared.runs
        return product_in(layer.shared.product_dtype, ctx.runs, a_NGLP, weight_KGOP.transpose(2, 3), bias_KGO)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the input; that of the weights goes onto the tape."""
        g_NGLO = grads[0]
        a_NGLP, weight_KGOP = ctx.saved_tensors
        shared = ctx.layer.shared
        if ctx.layer.names:
            shared.tape.append(ProductRecord(ctx.runs, a_NGLP, g_NGLO, ctx.layer.names))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        return product_in(shared.product_dtype, ctx.runs, g_NGLO, weight_KGOP), None, None, None, None


class WeightRecord(Record):
    """Record of a layer's weight and bias, one of which may be missing, and of the gradients written out so far."""

    def __init__(self, runs: Runs, names: Mapping[str, str]) -> None:
        self.runs = runs
        self.weight, self.bias = names.get("weight"), names.get("bias")
        self.names, self._parts = tuple(names.values()), names
        self._outer: Tensor | None = None
        self._summed: Tensor | None = None

    @property
    def of(self) -> str:
        """See the contract."""
        return self.weight or self.bias or ""

    def square_norms(self) -> Tensor:
        """See the contract."""
        squares = [self.weight_square_norms()] if self.weight else []
        squares += [square_lengths(self._bias_gradients())] if self.bias else []
        return sum(squares[1:], start=squares[0])

    @abstractmethod
    def weight_square_norms(self) -> Tensor:
        """The squared norm of each example's gradient of the weight alone, shape (N,)."""

    @abstractmethod
    def _bias_gradients(self) -> Tensor:
        """Every example's bias gradient, shape (N, outputs)."""

    @property
    def _written_out(self) -> bool:
        """Whether all gradients are written out example by example, so that nothing else is read again."""
        return (self.weight is None or self._outer is not None) and (self.bias is None or self._summed is not None)

    def drop(self, bad_N: Tensor) -> None:
        """See the contract; a subclass drops everything else that it keeps."""
        self._outer, self._summed = (None if x is None else without(x, bad_N) for x in (self._outer, self._summed))


class ProductRecord(WeightRecord):
    """Inputs a and output gradients g of a product; an example's weight gradient is Σ_l g_lᵀ a_l, its bias gradient Σ_l g_l.

    With one position the norm is ‖a‖‖g‖ (Goodfellow 2015, arXiv 1510.01799). With several, the example's gradient is written
    out, or its norm taken from Gram matrices (Li et al. 2022, arXiv 2110.05679, "ghost"), whichever is cheaper.
    """

    def __init__(self, runs: Runs, a_NGLP: Tensor, g_NGLO: Tensor, names: Mapping[str, str]) -> None:
        super().__init__(runs, names)
        self.a, self.g = a_NGLP, g_NGLO

    def and_also(self, others: Sequence[ProductRecord]) -> Record | None:
        """See the contract: more positions."""
        every = [self, *others]
        a, g = (torch.cat([getattr(one, part) for one in every], dim=2) for part in "ag")
        return type(self)(self.runs, a, g, self._parts)

    def weight_square_norms(self) -> Tensor:
        """See the class."""
        positions, inputs, outputs = self.a.shape[2], self.a.shape[3], self.g.shape[3]
        if positions == 1:
            once_N: Tensor = (square_lengths(self.a, 2) * square_lengths(self.g, 2)).sum(1)
            return once_N
        if ghost_pays(positions, inputs, outputs):
            return ghost_square_norms(self.g, self.a)
        return square_lengths(self._outer_products())

    def drop(self, bad_N: Tensor) -> None:
        """See the contract."""
        super().drop(bad_N)
        if not self._written_out:
            self.a, self.g = without(self.a, bad_N), without(self.g, bad_N)

    def add(self, factors: Tensor | float, sums: Sums) -> None:
        """See the contract."""
        if self.weight is not None:
            with windows_last(sums[self.weight]) as into:
                if self._outer is not None:
                    add_rows(self.runs, self._outer, factors, into.flatten(1))
                else:
                    shape = (len(into), self.g.shape[1], self.g.shape[3], self.a.shape[3])
                    add_outer(self.runs, self.g, self.a, factors, into.view(shape))
        if self.bias is not None:
            add_rows(self.runs, self._bias_gradients(), factors, sums[self.bias])

    def _outer_products(self) -> Tensor:
        """Every example's weight gradient, written out, shape (N, G·O·P)."""
        if self._outer is None:
            self._outer = outer_products(self.g, self.a)
        return self._outer

    def _bias_gradients(self) -> Tensor:
        """Every example's bias gradient, shape (N, G·O)."""
        if self._summed is None:
            self._summed = (self.g[:, :, 0] if self.g.shape[2] == 1 else self.g.sum(2)).flatten(1)
        return self._summed


class RowsRecord(ProductRecord):
    """A product whose matrix and bias are some rows of parameters.

    A parameter takes part once, and so only one of its records should name it: ``names`` are those that this one does. The
    others' rows are different ones, and so their square norms add up to that of the parameter's gradient.
    """

    def __init__(
        self,
        runs: Runs,
        a_NGLP: Tensor,
        g_NGLO: Tensor,
        parts: Mapping[str, str],
        rows: Mapping[str, slice],
        names: Sequence[str],
    ) -> None:
        super().__init__(runs, a_NGLP, g_NGLO, parts)
        self.rows, self.names = rows, tuple(names)

    @property
    def key(self) -> tuple[object, ...]:
        """See the contract; two uses of a layer may cut its parameter differently, and are then no sum."""
        return type(self), *(((name, str(self.rows[part]))) for part, name in self._parts.items())

    def and_also(self, others: Sequence[ProductRecord]) -> Record | None:
        """See the contract."""
        both = ProductRecord(self.runs, self.a, self.g, self._parts).and_also(others)
        assert isinstance(both, ProductRecord)
        return RowsRecord(self.runs, both.a, both.g, self._parts, self.rows, self.names)

    def add(self, factors: Tensor | float, sums: Sums) -> None:
        """See the contract."""
        super().add(factors, {name: sums[name][:, self.rows[part]] for part, name in self._parts.items()})


def _even_product(a_NGLP: Tensor, weight_KGPO: Tensor, bias_KGO: Tensor | None) -> Tensor:
    clients, groups, inputs, outputs = weight_KGPO.shape
    examples, _, positions, _ = a_NGLP.shape
    if groups == 1:
        a_KRP = a_NGLP.reshape(clients, -1, inputs)
        weight_KPO = weight_KGPO[:, 0]
        if a_KRP.device.type == "cpu" and a_KRP.shape[1] <= _FEW_ROWS and weight_KPO.stride(1) == 1:
            out = torch.bmm(weight_KPO.transpose(1, 2), a_KRP.transpose(1, 2)).transpose(1, 2).contiguous()
            out = out if bias_KGO is None else out.add_(bias_KGO)
        else:
            out = torch.bmm(a_KRP, weight_KPO) if bias_KGO is None else torch.baddbmm(bias_KGO, a_KRP, weight_KPO)
        return out.view(examples, 1, positions, outputs)
    a_KGRP = a_NGLP.view(clients, -1, groups, positions, inputs).transpose(1, 2).reshape(clients, groups, -1, inputs)
    out_KGRO = torch.matmul(a_KGRP, weight_KGPO)
    if bias_KGO is not None:
        out_KGRO = out_KGRO + bias_KGO.unsqueeze(2)
    out = out_KGRO.view(clients, groups, -1, positions, outputs).transpose(1, 2)
    return out.reshape(examples, groups, positions, outputs)


def _split_rows(x_NGLP: Tensor, runs: Runs) -> tuple[Tensor, ...]:
    """Each client's examples and positions as rows, of one group; views if the memory allows."""
    positions = x_NGLP.shape[2]
    return torch.split(x_NGLP.reshape(-1, x_NGLP.shape[-1]), [size * positions for size in runs.sizes])
