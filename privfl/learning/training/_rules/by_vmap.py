"""The rule for everything else: ``torch.func`` runs any layer for many clients, slower than a rule of its own.

Every example goes through the layer with a copy of its client's weights, and the gradient of a copy is that example's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from privfl.errors import ModelError
from privfl.learning.training._rules import CohortLayer, Pass, require_rows
from privfl.learning.training._rules.dropout import rate_of
from privfl.learning.training._rules.examples import ExamplesRecord
from privfl.learning.training._rules.recurrent import CohortRecurrent, Unrolled, unrolled


class CohortByVmap(CohortLayer):
    """Any module that treats the examples of a batch alike: tensors that begin with the batch in, tensors out."""

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        super().__init__(layer, prefix, shared)
        # Hidden from nn.Module: its parameters are not this module's.
        self._layer = [unrolled(layer).train()]

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """See the contract."""
        return any(value.requires_grad for value in layer.parameters())

    def within(self) -> dict[str, nn.Module]:
        """The layers inside that draw, by their names."""
        return {name: one for name, one in self._layer[0].named_modules() if _rate(one)}

    def require_rows(self, x: object) -> None:
        """See the contract; each tensor among the inputs is looked at when they are taken apart."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Tensors (N, ...), among them such as have no gradients -> tensors (N, ...), in any tuples or dictionaries.

        Raises:
            ModelError: a tensor does not have a row for each example.
        """
        inputs, put = _taken_apart((args, kwargs))
        runs, name = self.shared.runs, type(self._layer[0]).__name__
        if not inputs:
            raise ModelError(
                f"{name}, which has no rule, is given no tensor; give it the batch, and let it .expand(len(x), -1)"
            )
        for x in inputs:
            require_rows(name, len(x) if x.dim() else 1, runs.examples)
        client_N = runs.clients(inputs[0].device)
        copies = [self.shared.weights[name][client_N] for name in self.names.values()]
        own: tuple[Tensor, ...] = _OfEachExample.apply(self.shared.anchor, self, *copies)  # type: ignore[no-untyped-call]
        ends = []

        def one(inputs: Sequence[Tensor], own: Sequence[Tensor]) -> list[Tensor]:
            args, kwargs = put([x.unsqueeze(0) for x in inputs])
            given = functional_call(self._layer[0], dict(zip(self.names, own, strict=True)), args, kwargs)
            found, end = _taken_apart(given)
            ends.append(end)
            return [_alone(value) for value in found]

        with warnings.catch_warnings():
            # An operation is slow if PyTorch has no rule for many of it.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            out = self._drawn(one, inputs, own) if self._draws() else vmap(one)(inputs, own)
        return ends[-1](out)

    def _drawn(self, one: Callable[..., list[Tensor]], inputs: Sequence[Tensor], own: Sequence[Tensor]) -> list[Tensor]:
        """Client by client, each from its own stream."""
        parts = []
        for (first, last), generator in zip(self.shared.runs.spans, self.shared.generators, strict=True):
            if last > first:
                with _lent(generator):
                    some = ([value[first:last] for value in values] for values in (inputs, own))
                    parts.append(vmap(one, randomness="different")(*some))
        return [torch.cat(found) for found in zip(*parts, strict=True)]

    def _draws(self) -> bool:
        return any(getattr(one, _rate(one)) for one in self.within().values())


def _rate(layer: nn.Module) -> str:
    return CohortRecurrent.rate if isinstance(layer, Unrolled) else rate_of(layer)


def _taken_apart(whole: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors in tuples, lists and dictionaries, and a function that puts others in their places."""
    values, form = tree_flatten(whole)
    places = [place for place, value in enumerate(values) if isinstance(value, Tensor)]

    def put(tensors: Sequence[Tensor]) -> Any:
        given = dict(zip(places, tensors, strict=True))
        return tree_unflatten([given.get(place, value) for place, value in enumerate(values)], form)

    return [values[place] for place in places], put


def _alone(value: Tensor) -> Tensor:
    """The example of a batch of one."""
    if not value.dim() or len(value) != 1:
        raise ModelError(
            f"a layer without a rule gives {tuple(value.shape)} for one example; keep the batch first in what it gives"
        )
    return value.squeeze(0)


@contextmanager
def _lent(generator: torch.Generator) -> Iterator[None]:
    """Make the draws inside from PyTorch's generator of a device come from this one, of the same device."""
    cuda = generator.device.type == "cuda"
    usual = torch.cuda.default_generators[generator.device.index or 0] if cuda else torch.default_generator
    before = usual.get_state()
    usual.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(usual.get_state())
        usual.set_state(before)


class _OfEachExample(torch.autograd.Function):
    """Copies of the weights, one for each example; their gradients go onto the tape."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, layer: CohortByVmap, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.layer, ctx.runs = layer, layer.shared.runs
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer = ctx.layer
        layers: dict[str, dict[str, Tensor]] = {}
        for name, grad in zip(layer.names.values(), grads, strict=True):
            layers.setdefault(name.rpartition(".")[0], {})[name] = grad.reshape(len(grad), math.prod(grad.shape[1:]))
        # A record for each module within, so that layers may be clipped one by one.
        layer.shared.tape.extend(ExamplesRecord(ctx.runs, gradients) for gradients in layers.values())
        return None, None, *[None] * len(grads)
