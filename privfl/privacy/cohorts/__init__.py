"""SHELF of cohort samplers, which draw the clients of each round. An item's name in a configuration is that of its file.

An item is one module with one class that derives from :class:`CohortSampler`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from privfl.config import CohortConfig
from privfl.seeding import Seed

Drawn = tuple[int, ...]
"""The clients of one round, in ascending order."""


class CohortSampler(CohortConfig, ABC):
    """Base class of cohort samplers: the settings, and the draw of one round's cohort."""

    accounted: ClassVar[Literal["poisson", "fixed", "all"] | None] = None
    """The sampling that a price may assume, if each round is drawn independently of all others.

    ``poisson``: each client enters independently with one probability. ``fixed``: a fixed number is drawn without
    replacement. ``all``: everybody takes part. None: a price may assume nothing."""

    @property
    def min_separation(self) -> int | None:
        """Number of rounds in a row within which no client takes part twice; None if the sampler keeps no such limit."""
        return None

    @abstractmethod
    def draw(self, clients: int, before: Sequence[Drawn], generator: np.random.Generator) -> Drawn:
        """The cohort of one round, in ascending order; it may be empty, and must not depend on the data.

        Args:
            clients: K, the number of clients.
            before: the cohorts of all earlier rounds.
            generator: random generator of this round alone.
        """

    @abstractmethod
    def words(self) -> str:
        """Description of the sampling for the page."""


def draw_cohorts(sampler: CohortSampler, clients: int, rounds: int, seed: Seed) -> tuple[Drawn, ...]:
    """The cohorts of all rounds.

    Args:
        sampler: draws the cohorts.
        clients: K, the number of clients.
        rounds: number of cohorts.
        seed: root of the randomness; round r draws from ``seed / r``.
    """
    drawn: list[Drawn] = []
    for number in range(rounds):
        drawn.append(sampler.draw(clients, drawn, (seed / number).numpy()))
    return tuple(drawn)
