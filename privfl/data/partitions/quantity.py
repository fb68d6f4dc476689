"""Quantity skew by a Dirichlet distribution."""

from __future__ import annotations

import numpy as np
from pydantic import PositiveFloat

from privfl.data.partitions import IntArray, Partition
from privfl.data.partitions._shares import REMEDY, by_shares, shares


class Quantity(Partition):
    """Client sizes follow Dirichlet(alpha, ..., alpha); classes are mixed evenly (Li 2022, NIID-Bench, section IV-C)."""

    alpha: PositiveFloat

    def owners(
        self,
        labels_N: IntArray,
        natural_N: IntArray | None,  # noqa: ARG002
        clients: int,
        generator: np.random.Generator,
    ) -> IntArray:
        """See :class:`Partition`."""
        examples = len(labels_N)
        owner_N = np.empty(examples, dtype=np.int64)
        owner_N[generator.permutation(examples)] = by_shares(examples, shares(clients, self.alpha, generator))
        return owner_N

    def words(self) -> str:
        """See :class:`Partition`."""
        return f"sizes skewed by Dirichlet(α = {self.alpha:g}), classes mixed evenly"

    def remedy(self) -> str:
        """See :class:`Partition`."""
        return REMEDY
