"""Sign flipping: some clients send their payloads with the opposite sign (Li et al. 2019)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.behaviours._share import SharedBehaviour
from privfl.tables import Size


class SignFlip(SharedBehaviour):
    """Sign flipping: such a client trains as usual and passes −``scale`` times its whole payload to the plan."""

    scale: Size = 1.0

    def upload(self, joined_D: Tensor) -> Tensor:
        """−``scale`` times the payload."""
        return -self.scale * joined_D
