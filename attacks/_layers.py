"""The linear layers of a model that have a ReLU behind them, which a malicious server writes its own weights into.

Suffixes: N examples, F inputs of a layer, H units of a layer, D parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.running.knowledge import Network
from privfl.vectors import Layout


@dataclass(frozen=True)
class ReluLayer:
    """A trained linear layer of H units on F inputs, with a ReLU behind it.

    Args:
        name: of the layer in the module.
        units: H.
        inputs: F.
        layout: names and shapes of the model's parameters.
    """

    name: str
    units: int
    inputs: int
    layout: Layout

    def weights(self, vector_D: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's weights (H, F) and biases (H,) in a model or an update, as views."""
        parts = self.layout.unflatten(vector_D)
        return parts[f"{self.name}.weight"], parts[f"{self.name}.bias"]

    def written(self, vector_D: Tensor, weight_HF: Tensor, bias_H: Tensor) -> Tensor:
        """A copy of a model with these weights and biases in the layer."""
        own_D = vector_D.clone()
        for place, value in zip(self.weights(own_D), (weight_HF, bias_H), strict=True):
            place.copy_(value)
        return own_D

    def dead(self, vector_D: Tensor) -> Tensor:
        """A model of which no unit of this layer fires, whatever the input, and all else is zero.

        Only parameters that come after the layer have a gradient.
        """
        nothing_D = torch.zeros_like(vector_D)
        weight_HF, bias_H = self.weights(nothing_D)
        return self.written(nothing_D, weight_HF, torch.full_like(bias_H, -1.0))

    def inputs_of(self, network: Network, vector_D: Tensor, x: InputStore | Tensor) -> Tensor:
        """The layer's inputs for N examples at a model, of shape (N, F).

        Raises:
            ConfigError: it is given something else than a vector for each example.
        """
        module, found = network.at(vector_D), list[Tensor]()

        def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
            found.append(given[0].detach())

        module.get_submodule(self.name).register_forward_pre_hook(keep)
        with torch.no_grad():
            module(x[torch.arange(len(x), device=x.device)])
        if len(found) != 1 or found[0].shape != (len(x), self.inputs):
            raise ConfigError(
                f"model: its layer {self.name!r} is not given one vector for each example; use model.kind = 'mlp'"
            )
        return found[0]


def relu_layers(network: Network, attack: str) -> list[ReluLayer]:
    """The layers of that kind, in order; at least one.

    Raises:
        ConfigError: there is none.
    """
    leaves = [(name, one) for name, one in network.module.named_modules() if not list(one.children())]
    found = [
        ReluLayer(name, one.out_features, one.in_features, network.layout)
        for (name, one), (_, after) in pairwise(leaves)
        if isinstance(one, nn.Linear) and isinstance(after, nn.ReLU)
        if {f"{name}.weight", f"{name}.bias"} <= set(network.layout.names)
    ]
    if not found:
        raise ConfigError(
            f"model: {attack!r} needs a trained linear layer with biases and a ReLU behind it; set model.kind = 'mlp' and "
            "model.activation = 'relu'"
        )
    return found
