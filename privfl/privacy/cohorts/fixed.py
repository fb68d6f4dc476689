"""Fixed-size sampling of cohorts, without replacement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from privfl.privacy.cohorts import CohortSampler, Drawn


class Fixed(CohortSampler):
    """A sample of exactly ``size`` clients, drawn without replacement."""

    accounted: ClassVar[Literal["fixed"]] = "fixed"

    size: PositiveInt

    def expected(self, clients: int) -> int:  # noqa: ARG002
        """The fixed size of a cohort."""
        return self.size

    def draw(self, clients: int, before: Sequence[Drawn], generator: np.random.Generator) -> Drawn:  # noqa: ARG002
        """See :class:`CohortSampler`."""
        return tuple(sorted(int(client) for client in generator.choice(clients, size=self.size, replace=False)))

    def words(self) -> str:
        """See :class:`CohortSampler`."""
        return f"exactly {self.size} clients a round, drawn without replacement"
