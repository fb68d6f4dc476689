"""A distributed backdoor: each attacker trains on a part of the trigger; the whole is shown later (DBA, Xie et al. 2020)."""

from __future__ import annotations

import torch
from pydantic import model_validator

from privfl.federation.behaviours._backdoor import BackdoorBehaviour, Square
from privfl.tables import contradiction


class Dba(BackdoorBehaviour):
    """DBA: the trigger has four quarters, and the attackers take turns at them. The authors use four bars.

    Fewer than four attackers leave out a part of the trigger.
    """

    size: int = 4

    @model_validator(mode="after")
    def _quarters(self) -> Dba:
        if self.size < 2 or self.size % 2:
            raise contradiction("size", self.size, "must be even and at least 2, to be cut into quarters")
        return self

    def square(self, attacker: int, shape: torch.Size) -> Square:
        """One quarter of the trigger: upper left, upper right, lower left, lower right."""
        rows, columns = self._whole(shape)
        half, (down, right) = self.size // 2, divmod(attacker % 4, 2)
        top, left = rows.start + down * half, columns.start + right * half
        return slice(top, top + half), slice(left, left + half)
