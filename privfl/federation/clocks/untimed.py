"""No simulated time: rounds have an order and no durations."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.federation.clocks import Clock, FloatArray
from privfl.seeding import Seed


class Untimed(Clock):
    """A clock without durations; records and pages of the run have no simulated seconds."""

    ticks: ClassVar[bool] = False

    def durations(self, training: int, steps_K: FloatArray, stream: Seed) -> FloatArray:  # noqa: ARG002
        """Zeros, which nobody reads."""
        return np.zeros(len(steps_K))

    def words(self) -> str:
        """No words."""
        return ""
