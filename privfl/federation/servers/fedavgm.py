"""FedAvgM: FedAvg with server momentum (Hsu 2019, section 4.3)."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor, zeros_like

from privfl.federation.servers import Decay, ServerOptimizer, State


class FedAvgM(ServerOptimizer):
    """FedAvgM: m <- momentum m + Δ;  x <- x + lr m."""

    lr: PositiveFloat = 1.0
    momentum: Decay = 0.9

    def init(self, global_D: Tensor) -> State:
        """``momentum_D``, zero."""
        return {"momentum_D": zeros_like(global_D)}

    def step(self, global_D: Tensor, delta_D: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the formula above."""
        momentum_D = self.momentum * state["momentum_D"] + delta_D
        return global_D + self.lr * momentum_D, {"momentum_D": momentum_D}
