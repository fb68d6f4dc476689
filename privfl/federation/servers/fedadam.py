"""FedAdam (Reddi 2021, algorithm 2)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.servers import Decay
from privfl.federation.servers._adaptive import AdaptiveServer


class FedAdam(AdaptiveServer):
    """FedAdam: v <- β2 v + (1 − β2) Δ²."""

    beta2: Decay = 0.99

    def second(self, second_D: Tensor, square_D: Tensor) -> Tensor:
        """β2 v + (1 − β2) Δ²."""
        return self.beta2 * second_D + (1 - self.beta2) * square_D
