"""FedYogi (Reddi 2021, algorithm 2)."""

from __future__ import annotations

from torch import Tensor, sign

from privfl.federation.servers import Decay
from privfl.federation.servers._adaptive import AdaptiveServer


class FedYogi(AdaptiveServer):
    """FedYogi: v <- v − (1 − β2) Δ² sign(v − Δ²)."""

    beta2: Decay = 0.99

    def second(self, second_D: Tensor, square_D: Tensor) -> Tensor:
        """V − (1 − β2) Δ² sign(v − Δ²)."""
        return second_D - (1 - self.beta2) * square_D * sign(second_D - square_D)
