"""Checks that the frozen parameters and buffers of a model, which nobody trains, stay as they are."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from privfl.learning.training._guards import lent_randomness
from privfl.vectors import constants, written


@torch.no_grad()
def require_constants(model: nn.Module, x_B: Tensor) -> None:
    """Raise if a pass writes a frozen parameter or a buffer: no update would carry it.

    Args:
        model: in training mode.
        x_B: made-up inputs; if the model does not take them, nothing is found out.

    Raises:
        ModelError: names the first of them.
    """
    before: dict[str, Tensor] = {}
    with suppress(Exception), lent_randomness(x_B.device):
        # This first pass lets layers make constants that they keep, such as tables of angles.
        model(x_B.clone())
        before = {name: value.clone() for name, value in constants(model).items()}
        model(x_B.clone())
    after = constants(model)
    for name, value in before.items():
        if not torch.allclose(value, after[name], rtol=0.0, atol=0.0, equal_nan=True):
            raise written(name)


class Constants:
    """Watches a model's constants while it is trained, without a look at their values."""

    def __init__(self, model: nn.Module) -> None:
        # The tensors are kept, so that none of them can be replaced by another at its place in memory.
        self._model, self._kept = model, {name: (value, value._version) for name, value in constants(model).items()}

    def require(self) -> None:
        """Raise if a constant was written since this object was made.

        Raises:
            ModelError: names the first of them.
        """
        now = constants(self._model)
        for name, (value, version) in self._kept.items():
            if now[name].data_ptr() != value.data_ptr() or now[name]._version != version:
                raise written(name)
