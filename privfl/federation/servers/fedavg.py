"""FedAvg: the global model moves along the clients' mean update (McMahan 2017, algorithm 1)."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from privfl.federation.servers import ServerOptimizer, State


class FedAvg(ServerOptimizer):
    """x <- x + lr Δ; with lr = 1 the mean of the local models."""

    lr: PositiveFloat = 1.0

    def init(self, global_D: Tensor) -> State:  # noqa: ARG002
        """No state."""
        return {}

    def step(self, global_D: Tensor, delta_D: Tensor, state: State) -> tuple[Tensor, State]:
        """See the class."""
        return global_D + self.lr * delta_D, state
