"""Low-rank adapters beside a model's linear layers, of which one factor is trained (LoRA; Hu et al. 2022, section 4.1).

A layer ``W x + b`` becomes ``W x + b + (alpha / rank) B A x``. Only B is trained. A is random, public and frozen: a mean of
both factors over clients would not be the mean of their products (FFA-LoRA; Sun et al. 2024), and noise on both would be
multiplied. With A fixed the update is linear in B, so sums, secure sums and noise are exact.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from privfl.learning.models._trainable import matches, require_matches
from privfl.tables import Frozen, Size


class Lora(Frozen):
    """Settings of the adapters: their rank, the scale ``alpha / rank``, and patterns over the names of linear layers."""

    rank: PositiveInt = 4
    alpha: Size = 8.0
    layers: Annotated[tuple[str, ...], Field(strict=False)] = ("*",)


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter beside it; B begins as zeros, so that it begins as the layer itself.

    Args:
        base: the layer.
        lora: rank and scale. A is drawn from PyTorch's global generator.
    """

    def __init__(self, base: nn.Linear, lora: Lora) -> None:
        super().__init__()
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.base = base
        self.a = nn.Linear(base.in_features, lora.rank, bias=False, **like)
        self.b = nn.Linear(lora.rank, base.out_features, bias=False, **like)
        nn.init.zeros_(self.b.weight)
        self.scale = lora.alpha / lora.rank

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        found: Tensor = self.base(x) + self.scale * self.b(self.a(x))
        return found


def adapted(module: nn.Module, lora: Lora, trained: Collection[Tensor]) -> tuple[nn.Module, list[Tensor]]:
    """The module with adapters, and the factors B.

    Args:
        module: changed in place, unless it is one linear layer itself.
        lora: which layers, and how. A layer used under several names gets one adapter.
        trained: parameters that are trained as they are. A layer whose weight is among them gets no adapter.

    Raises:
        ModelError: a pattern matches no linear layer.
    """
    whole = {id(parameter) for parameter in trained}
    # Subclasses are left alone: an attention reads the weight of its own kind of linear layer, and never calls it.
    linear = {name: one for name, one in module.named_modules(remove_duplicate=False) if type(one) is nn.Linear}
    require_matches("model.lora.layers", lora.layers, linear, "linear layer")
    made: dict[int, Adapted] = {}
    for name, layer in linear.items():
        if not matches(name, lora.layers) or id(layer.weight) in whole:
            continue
        if id(layer) not in made:
            made[id(layer)] = Adapted(layer, lora)
        adapter = made[id(layer)]
        if not name:
            return adapter, [adapter.b.weight]
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, adapter)
    return module, [adapter.b.weight for adapter in made.values()]
