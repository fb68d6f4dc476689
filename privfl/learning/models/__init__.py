"""SHELF of models. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Model`; its fields are the model's settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from privfl.tables import Item


class Model(Item, ABC):
    """The contract of this shelf."""

    inputs: ClassVar[tuple[str, ...]] = ()
    """The inputs that ``forward()`` takes by name, of data whose examples have several; empty: one tensor."""

    as_dictionary: ClassVar[bool] = False
    """Whether ``forward()`` takes those inputs as one dictionary, and not as keywords."""

    @abstractmethod
    def build(self, input_shape: Any, outputs: int) -> nn.Module:
        """A module from (B, *input_shape) to outputs of shape (B, outputs), with PyTorch's default initialisation.

        Args:
            input_shape: the shape of an example's input; of a model with :attr:`inputs`, name -> shape of each of them.
            outputs: the width of the last layer, which the task and the data decide.

        The caller sets the seed of the global generators of PyTorch, NumPy and Python around this call, so that initial
        weights, and constants that are drawn beside them, are repeatable: each process calls it for itself. Lazy layers are
        made whole by an example, and what comes is checked before anything is trained (:mod:`privfl.learning.models._build`).

        Raises:
            ModelError: the model cannot take inputs of that shape.
        """
