"""Poisson sampling of cohorts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from privfl.privacy.cohorts import CohortSampler, Drawn


class Poisson(CohortSampler):
    """Poisson sampling: every client takes part independently; ``size`` is the expected number. A cohort may be empty."""

    accounted: ClassVar[Literal["poisson"]] = "poisson"

    size: PositiveInt

    def expected(self, clients: int) -> int:  # noqa: ARG002
        """The expected size of a cohort."""
        return self.size

    def largest(self, clients: int) -> int:
        """The number of all clients, since all of them may come."""
        return clients

    def draw(self, clients: int, before: Sequence[Drawn], generator: np.random.Generator) -> Drawn:  # noqa: ARG002
        """See :class:`CohortSampler`."""
        return tuple(int(client) for client in np.flatnonzero(generator.random(clients) < self.size / clients))

    def words(self) -> str:
        """See :class:`CohortSampler`."""
        return f"about {self.size} clients a round, each drawn on its own (Poisson)"
