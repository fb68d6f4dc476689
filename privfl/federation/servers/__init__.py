"""SHELF of server optimisers. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`ServerOptimizer`. State is explicit: it goes in and comes
out, so that a run can be resumed from what was written.
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
    """The contract of this shelf."""

    @abstractmethod
    def init(self, global_D: Tensor) -> State:
        """The state before the first round: named tensors of length D, perhaps none."""

    @abstractmethod
    def step(self, global_D: Tensor, delta_D: Tensor, state: State) -> tuple[Tensor, State]:
        """One step along the mean update.

        Args:
            global_D: the global model.
            delta_D: the mean of the clients' updates (local minus global), the pseudo-gradient's negative.
            state: what the previous call returned.

        Returns:
            the new global model and the new state; the arguments are left as they were.
        """
