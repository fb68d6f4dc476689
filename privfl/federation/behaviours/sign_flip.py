"""Sign flipping: some clients send their payloads with the opposite sign (Li et al. 2019)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.behaviours._share import SharedBehaviour
from privfl.tables import Size


class SignFlip(SharedBehaviour):
    """Such a client hands −``scale`` times its payload to the plan, all parts of it; it trains as the others do."""

    scale: Size = 1.0

    def upload(self, joined_D: Tensor) -> Tensor:
        """See the class."""
        return -self.scale * joined_D
