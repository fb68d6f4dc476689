"""A cohort sampler that says it keeps clients apart, and does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from privfl.privacy.cohorts import CohortSampler, Drawn


class Crowded(CohortSampler):
    """The same three clients in every round."""

    @property
    def min_separation(self) -> int:
        return 3

    def expected(self, clients: int) -> int:
        return 3

    def draw(self, clients: int, before: Sequence[Drawn], generator: np.random.Generator) -> Drawn:
        return (0, 1, 2)

    def words(self) -> str:
        return "three friends"
