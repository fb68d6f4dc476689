"""SHELF of cohort samplers: who takes part in which round. The file's name is its name in a configuration.

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
"""The clients of one round, ascending."""


class CohortSampler(CohortConfig, ABC):
    """The contract of this shelf."""

    accounted: ClassVar[Literal["poisson", "fixed", "all"] | None] = None
    """How a price may count on the draws: each client independently with one probability, a fixed number without replacement,
    or everybody, each round independent of all others. None: nothing may be gained from them."""

    @property
    def min_separation(self) -> int | None:
        """Rounds in a row within which no client takes part twice; None: nothing of the kind is kept."""
        return None

    @abstractmethod
    def draw(self, clients: int, before: Sequence[Drawn], generator: np.random.Generator) -> Drawn:
        """The cohort of one round, ascending; it may be empty, and depends on no data.

        Args:
            clients: K, how many there are.
            before: the cohorts of all earlier rounds.
            generator: this round's own randomness.
        """

    @abstractmethod
    def words(self) -> str:
        """Who takes part in a round, for the page."""


def draw_cohorts(sampler: CohortSampler, clients: int, rounds: int, seed: Seed) -> tuple[Drawn, ...]:
    """The cohorts of all rounds.

    Args:
        sampler: how they are drawn.
        clients: K, how many clients there are.
        rounds: how many cohorts.
        seed: round r draws from ``seed / r``.
    """
    drawn: list[Drawn] = []
    for number in range(rounds):
        drawn.append(sampler.draw(clients, drawn, (seed / number).numpy()))
    return tuple(drawn)
