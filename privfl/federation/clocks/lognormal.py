"""Lognormal durations: most trainings take about as long as the median, few take many times as long."""

from __future__ import annotations

import numpy as np

from privfl.federation.clocks import FloatArray
from privfl.federation.clocks._timed import Spread, TimedClock


class Lognormal(TimedClock):
    """A clock with f = exp(``sigma`` · Z), Z standard normal; ``seconds`` is the median, and the mean is exp(σ²/2) times as
    long.
    """

    sigma: Spread = 0.5

    def factors(self, clients: int, generator: np.random.Generator) -> FloatArray:
        """Lognormal draws with median 1."""
        return np.exp(self.sigma * generator.standard_normal(clients))
