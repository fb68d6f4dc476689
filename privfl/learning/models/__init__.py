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

        The caller sets the seed of the global generators of PyTorch, NumPy and Python around this call, so that initial
        weights, and constants that are drawn beside them, are repeatable: each process calls it for itself. Lazy layers are
        made whole by an example, and what comes is checked before anything is trained (:mod:`privfl.learning.models._build`).

        Raises:
            ModelError: the model cannot take inputs of that shape.
        """
