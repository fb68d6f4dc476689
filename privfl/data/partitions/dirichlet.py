"""Label skew by a Dirichlet distribution."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, PositiveFloat

from privfl.data.partitions import IntArray, Partition
from privfl.data.partitions._shares import REMEDY, by_shares, shares, without_full


class Dirichlet(Partition):
    """Each class is split over the clients by proportions from Dirichlet(alpha, ..., alpha) (Hsu 2019, Yurochkin 2019).

    If ``balanced``, clients that have N / K examples or more get none of the classes that are left, whose proportions are
    scaled up for the others. NIID-Bench deals so (Li 2022, its ``utils.py``), and its sizes differ less.
    """

    by_class: ClassVar[bool] = True

    alpha: PositiveFloat
    balanced: Annotated[bool, Field(exclude_if=lambda balanced: not balanced)] = False

    def owners(
        self,
        labels_N: IntArray,
        natural_N: IntArray | None,  # noqa: ARG002
        clients: int,
        generator: np.random.Generator,
    ) -> IntArray:
        """For each class c, p_c ~ Dirichlet(alpha, ..., alpha) over the clients (Hsu 2019; Yurochkin 2019, section 4)."""
        owner_N, sizes_K = np.empty_like(labels_N), np.zeros(clients, dtype=np.int64)
        for label in np.unique(labels_N):
            members = generator.permutation(np.flatnonzero(labels_N == label))
            shares_K = shares(clients, self.alpha, generator)
            if self.balanced:
                shares_K = without_full(shares_K, sizes_K, len(labels_N))
            owner_N[members] = by_shares(len(members), shares_K)
            sizes_K += np.bincount(owner_N[members], minlength=clients)
        return owner_N

    def words(self) -> str:
        """See :class:`Partition`."""
        balanced = ", clients of more than their share left out" if self.balanced else ""
        return f"classes skewed over the clients by Dirichlet(α = {self.alpha:g}){balanced}"

    def remedy(self) -> str:
        """See :class:`Partition`."""
        return REMEDY
