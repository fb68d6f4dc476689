"""SHELF of client clocks: how long each client's local training takes, in simulated seconds. An item's name in a configuration
is that of its file (``clock = "lognormal"``; the default, ``untimed``, has no time).

A clock draws from a stream of its own and knows the clients' public sizes only. All durations of a run are thus known
before its first round, and none depends on what the examples are. Simulated seconds are not the seconds that the simulation
takes.

An item is one module with one class that derives from :class:`Clock`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfl.config import ClockConfig
from privfl.seeding import Seed

FloatArray = NDArray[np.float64]


class Clock(ClockConfig, ABC):
    """A client clock."""

    ticks: ClassVar[bool] = True
    """Whether it has durations."""

    @abstractmethod
    def durations(self, training: int, steps_K: FloatArray, stream: Seed) -> FloatArray:
        """Seconds that each client takes for its whole local training, of shape (K,), all above 0.

        Args:
            training: the number of the training, from 0; each number has draws of its own.
            steps_K: the number of local steps of each client, by its public size.
            stream: the root of the clock's randomness.
        """

    @abstractmethod
    def words(self) -> str:
        """The clock in a few words, for the page."""
