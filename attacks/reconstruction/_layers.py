"""The layers of a model that reconstruction reads: the first one and the last one that is trained."""

from __future__ import annotations

from torch import Tensor, nn

from privfl.errors import ViewError
from privfl.running.knowledge import Network


def trained_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers with trained parameters of their own, with their names, in the order in which the model declares them."""
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    ]


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer is linear with a bias, both trained."""
    return isinstance(layer, nn.Linear) and layer.bias is not None and layer.weight.requires_grad and layer.bias.requires_grad


def parts(network: Network, name: str, vector_D: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of a vector that belong to the weight and to the bias of the linear layer of that name."""
    named = network.layout.unflatten(vector_D)
    weight, bias = (f"{name}.{part}" if name else part for part in ("weight", "bias"))
    return named[weight], named[bias]


def require_takes_inputs(network: Network, name: str, model_D: Tensor, x_n: Tensor, kind: str) -> None:
    """Refuse a linear layer that does not take the model's inputs as they are.

    Args:
        network: the architecture.
        name: the layer.
        model_D: parameters of the model.
        x_n: some inputs.
        kind: the attack that asks.

    Raises:
        ViewError: it does not.
    """
    module, seen = network.at(model_D.to(x_n.device)), list[Tensor]()
    module.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    module(x_n)
    if len(seen) != 1 or not seen[0].flatten(1).equal(x_n.flatten(1)):
        raise ViewError(f"{kind!r}: the model's first layer does not take its inputs as they are; attack a model such as 'mlp'")
