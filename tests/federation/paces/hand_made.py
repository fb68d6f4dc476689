"""Clocks and timetables by hand."""

from __future__ import annotations

import numpy as np

from privfl.federation.clocks import Clock, FloatArray
from privfl.federation.paces import Course, Pace, Turn
from privfl.privacy.cohorts import CohortSampler
from privfl.privacy.cohorts.all import All
from privfl.seeding import Seed


class Given(Clock):
    """A clock by which each client always takes the same given time."""

    seconds: tuple[float, ...]

    def durations(self, training: int, steps_K: FloatArray, stream: Seed) -> FloatArray:
        """The given times."""
        return np.array(self.seconds)

    def words(self) -> str:
        """Some words."""
        return "given"


def turns(
    pace: Pace, seconds: tuple[float, ...], rounds: int, sampler: CohortSampler | None = None, units: int = 4
) -> list[Turn]:
    """The turns of clients that always take that long."""
    clients = len(seconds)
    clock, steps_K = Given(kind="given", seconds=seconds), np.ones(clients)
    made = Course(clients, rounds, sampler or All(kind="all"), Seed(0), clock, Seed(0), steps_K, units)
    return list(pace.turns(made))
