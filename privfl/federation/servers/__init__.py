"""SHELF of server optimizers. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`ServerOptimizer`. State is explicit: methods take it and return
it, so a run can be resumed from a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field
from torch import Tensor

from privfl.tables import Item

State = dict[str, Tensor]
Decay = Annotated[float, Field(ge=0, lt=1)]


class ServerOptimizer(Item, ABC):
    """A server optimizer: it moves the global model along the mean update."""

    @abstractmethod
    def init(self, global_D: Tensor) -> State:
        """The state before the first round: named tensors of length D, possibly none."""

    @abstractmethod
    def step(self, global_D: Tensor, delta_D: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one step along the mean update.

        Args:
            global_D: the global model.
            delta_D: the mean of the clients' updates (local minus global), which is the negative pseudo-gradient.
            state: the state that the previous call returned.

        Returns:
            the new global model and the new state; the arguments stay unchanged.
        """
