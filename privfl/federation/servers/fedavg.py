"""FedAvg: the global model moves along the clients' mean update (McMahan 2017, algorithm 1)."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from privfl.federation.servers import ServerOptimizer, State


class FedAvg(ServerOptimizer):
    """FedAvg: x <- x + lr Δ; with lr = 1 the new model is the mean of the local models."""

    lr: PositiveFloat = 1.0

    def init(self, global_D: Tensor) -> State:  # noqa: ARG002
        """An empty state."""
        return {}

    def step(self, global_D: Tensor, delta_D: Tensor, state: State) -> tuple[Tensor, State]:
        """X + lr Δ."""
        return global_D + self.lr * delta_D, state
