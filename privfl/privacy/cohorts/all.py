"""Full participation: every cohort holds all clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from privfl.privacy.cohorts import CohortSampler, Drawn


class All(CohortSampler):
    """Every client takes part in every round."""

    draws: ClassVar[bool] = False
    accounted: ClassVar[Literal["all"]] = "all"

    def expected(self, clients: int) -> int:
        """The number of all clients."""
        return clients

    def draw(self, clients: int, before: Sequence[Drawn], generator: np.random.Generator) -> Drawn:  # noqa: ARG002
        """See :class:`CohortSampler`."""
        return tuple(range(clients))

    def words(self) -> str:
        """See :class:`CohortSampler`."""
        return "all clients in every round"
