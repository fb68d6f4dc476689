"""Cohorts with a minimum separation: no client takes part twice within a number of rounds in a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import PositiveInt

from privfl.privacy.cohorts import CohortSampler, Drawn
from privfl.tables import contradiction


class Separated(CohortSampler):
    """Exactly ``size`` clients, none of them twice within ``separation`` rounds in a row (Choquette-Choo 2023).

    A client that took part in none of the last ``separation`` − 1 rounds may be drawn, without replacement.
    """

    size: PositiveInt
    separation: PositiveInt

    @property
    def min_separation(self) -> int:
        """The separation of the settings."""
        return self.separation

    def expected(self, clients: int) -> int:  # noqa: ARG002
        """The fixed size of a cohort."""
        return self.size

    def check(self, clients: int) -> None:
        """See :class:`CohortSampler`."""
        super().check(clients)
        if (needed := self.size * self.separation) > clients:
            raise contradiction(
                "cohort.separation",
                self.separation,
                f"cohorts of {self.size} that share nobody for {self.separation} rounds need {needed} clients, "
                f"data.clients = {clients}; lower cohort.size or cohort.separation",
            )

    def draw(self, clients: int, before: Sequence[Drawn], generator: np.random.Generator) -> Drawn:
        """See :class:`CohortSampler`."""
        rested_K = np.ones(clients, np.bool_)
        rested_K[[client for one in before[max(0, len(before) - self.separation + 1) :] for client in one]] = False
        drawn = generator.choice(np.flatnonzero(rested_K), size=self.size, replace=False)
        return tuple(sorted(int(client) for client in drawn))

    def words(self) -> str:
        """See :class:`CohortSampler`."""
        return f"exactly {self.size} clients a round, drawn without replacement"
