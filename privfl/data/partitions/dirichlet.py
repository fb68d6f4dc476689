"""Label skew by a Dirichlet distribution."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat

from privfl.data.partitions import IntArray, Partition
from privfl.data.partitions._shares import REMEDY, by_shares, shares


class Dirichlet(Partition):
    """Each class is split over the clients by proportions from Dirichlet(alpha, ..., alpha) (Hsu 2019, Yurochkin 2019)."""

    by_class: ClassVar[bool] = True

    alpha: PositiveFloat

    def owners(
        self,
        labels_N: IntArray,
        natural_N: IntArray | None,  # noqa: ARG002
        clients: int,
        generator: np.random.Generator,
    ) -> IntArray:
        """For each class c, p_c ~ Dirichlet(alpha, ..., alpha) over the clients (Hsu 2019; Yurochkin 2019, section 4)."""
        owner_N = np.empty_like(labels_N)
        for label in np.unique(labels_N):
            members = generator.permutation(np.flatnonzero(labels_N == label))
            owner_N[members] = by_shares(len(members), shares(clients, self.alpha, generator))
        return owner_N

    def words(self) -> str:
        """See :class:`Partition`."""
        return f"classes skewed over the clients by Dirichlet(α = {self.alpha:g})"

    def remedy(self) -> str:
        """See :class:`Partition`."""
        return REMEDY
