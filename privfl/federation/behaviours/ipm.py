"""Inner product manipulation: colluding clients send a negative multiple of their mean update (Xie et al. 2019)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.behaviours._colluding import ColludingBehaviour
from privfl.tables import Size


class Ipm(ColludingBehaviour):
    """IPM: all attackers send −``eps`` times the mean of their correct updates.

    A small ``eps`` (0.1) lies among honest updates and passes robust rules. A large one (10) turns a mean around.
    """

    eps: Size = 0.1

    def craft(self, honest_FD: Tensor, clients: int) -> Tensor:  # noqa: ARG002
        """−``eps`` times the mean."""
        return -self.eps * honest_FD.mean(0)
