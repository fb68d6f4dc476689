"""The rule for everything else: ``torch.func`` runs any layer for many clients, slower than a rule of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from privfl.training._rules import CohortLayer, Pass
from privfl.training._rules.examples import ExamplesRecord


class CohortByVmap(CohortLayer):
    """Any module of one input and one output that treats the examples of a batch alike and draws no random numbers."""

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        # Hidden from nn.Module: its parameters are not this module's.
        self._layer = [layer]

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """See the contract."""
        return next(layer.parameters(), None) is not None

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        client_N = self.shared.runs.clients(x.device)
        own = [self.shared.weights[name][client_N] for name in self.names.values()]
        return _Vmapped.apply(x, self.shared.anchor, self, *own)  # type: ignore[no-any-return, no-untyped-call]

    def one(self, x: Tensor, *weights: Tensor) -> Tensor:
        """One example through the layer with these weights."""
        named = dict(zip(self.names, weights, strict=True))
        out: Tensor = functional_call(self._layer[0], named, (x.unsqueeze(0),)).squeeze(0)
        return out


class _Vmapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, layer: CohortByVmap, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        ctx.layer, ctx.runs = layer, layer.shared.runs
        out: Tensor = vmap(layer.one)(x, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        layer = ctx.layer

        def backwards(g: Tensor, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
            given: tuple[Tensor, ...]
            if x.is_floating_point():
                given = vjp(layer.one, x, *weights)[1](g)
                return given
            given = vjp(lambda *own: layer.one(x, *own), *weights)[1](g)
            return (torch.zeros_like(g), *given)

        grad_x, *own = vmap(backwards)(grads[0], x, *weights)
        layers: dict[str, dict[str, Tensor]] = {}
        for name, grad in zip(layer.names.values(), own, strict=True):
            layers.setdefault(name.rpartition(".")[0], {})[name] = grad.reshape(len(grad), math.prod(grad.shape[1:]))
        # A record for each module within, so that layers may be clipped one by one.
        layer.shared.tape.extend(ExamplesRecord(ctx.runs, gradients) for gradients in layers.values())
        return (grad_x if ctx.needs_input_grad[0] else None, None, None, *[None] * len(own))
