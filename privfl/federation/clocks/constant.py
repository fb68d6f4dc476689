"""Durations that are the same in all of a client's trainings."""

from __future__ import annotations

import numpy as np

from privfl.federation.clocks import FloatArray
from privfl.federation.clocks._timed import TimedClock


class Constant(TimedClock):
    """A clock without chance from one training to the next: f = 1. With ``speed_spread`` clients still differ for the whole
    run.
    """

    def factors(self, clients: int, generator: np.random.Generator) -> FloatArray:  # noqa: ARG002
        """Ones."""
        return np.ones(clients)
