"""SHELF of models. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Model`; its fields are the model's settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from privfl.tables import Item


class Model(Item, ABC):
    """The contract of this shelf."""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A module from (B, *input_shape) to logits of shape (B, classes), with PyTorch's default initialisation.

        The caller sets the global generator's seed around this call, so that the initial weights are repeatable.

        Raises:
            ModelError: the model cannot take inputs of that shape.
        """
