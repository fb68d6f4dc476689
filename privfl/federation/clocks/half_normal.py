"""Half-normal durations, as FedBuff's experiments have them (Nguyen et al. 2022)."""

from __future__ import annotations

import numpy as np

from privfl.federation.clocks import FloatArray
from privfl.federation.clocks._timed import TimedClock


class HalfNormal(TimedClock):
    """A clock with f = |Z|, Z standard normal; the mean is √(2/π) · ``seconds``, and some trainings take next to no time."""

    def factors(self, clients: int, generator: np.random.Generator) -> FloatArray:
        """Absolute values of standard normal draws."""
        return np.abs(generator.standard_normal(clients))
