"""A little is enough: colluding clients send a vector that hides within the spread of updates (Baruch et al. 2019)."""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated

from pydantic import Field
from torch import Tensor

from privfl.federation.behaviours._colluding import ColludingBehaviour


class Alie(ColludingBehaviour):
    """ALIE: all attackers send m − z·σ, with mean m and standard deviation σ of each coordinate of their correct updates.

    σ divides by f, as the authors' code does. One attacker alone has σ = 0 and sends its correct update.

    ``z``: the number of deviations; None: the largest z at which enough honest clients are expected farther from the mean
    (algorithm 3, step 2). The authors' code has 1.5.
    """

    z: Annotated[float, Field(ge=0)] | None = None

    def craft(self, honest_FD: Tensor, clients: int) -> Tensor:
        """The vector m − z·σ."""
        z = largest_z(clients, len(honest_FD)) if self.z is None else self.z
        return honest_FD.mean(0) - z * honest_FD.std(0, correction=0)


def largest_z(clients: int, attackers: int) -> float:
    """The number z = Φ⁻¹((n − f − s) / (n − f)) with s = ⌊n/2 + 1⌋ − f, the honest clients that attackers need for a majority.

    Attackers that have a majority already are taken to need one client. A negative z, which few attackers get, counts as 0.

    Args:
        clients: n, the number of clients in the round.
        attackers: f, the number of attackers among them.
    """
    honest = clients - attackers
    needed = max(1, clients // 2 + 1 - attackers)
    nearer = honest - needed
    return max(0.0, NormalDist().inv_cdf(nearer / honest)) if nearer > 0 else 0.0
