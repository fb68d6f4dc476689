"""Names of a model's layers in an algorithm's settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from privfl.errors import ConfigError
from privfl.vectors import Layout


def parameters_of(layers: Sequence[str] | None, model: nn.Module, setting: str) -> tuple[str, ...]:
    """The trained parameters of some layers, in the model's order.

    Args:
        layers: names of layers or of single parameters; None: the last layer that is trained.
        model: the model.
        setting: the setting's name, for the error.

    Raises:
        ConfigError: the model has no layer of that name.
    """
    names = Layout.of(model).names
    if layers is None:
        layers = [_layer_of(names[-1])]
    for layer in layers:
        if not any(_within(name, layer) for name in names):
            there = ", ".join(repr(known) for known in dict.fromkeys(map(_layer_of, names)))
            raise ConfigError(f"{setting} = {layer!r}: the model has no such layer that is trained; it has {there}")
    return tuple(name for name in names if any(_within(name, layer) for layer in layers))


def require_rest(kept: Collection[str], model: nn.Module, setting: str) -> None:
    """Raise if nothing is left to be sent.

    Raises:
        ConfigError: says what would work.
    """
    names = Layout.of(model).names
    if set(names) <= set(kept):
        layers = ", ".join(map(repr, dict.fromkeys(map(_layer_of, names))))
        raise ConfigError(
            f"{setting}: is the whole model ({layers}), so that nothing would be sent; name fewer layers, or set a model with "
            "more of them, such as 'mlp'"
        )


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0] or name


def _within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")
