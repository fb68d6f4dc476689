"""FedAdagrad (Reddi 2021, algorithm 2)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.servers import Decay
from privfl.federation.servers._adaptive import AdaptiveServer


class FedAdagrad(AdaptiveServer):
    """FedAdagrad: v <- v + Δ². The paper sets β1 = 0 here."""

    beta1: Decay = 0.0

    def second(self, second_D: Tensor, square_D: Tensor) -> Tensor:
        """V + Δ²."""
        return second_D + square_D
