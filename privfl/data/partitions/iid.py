"""An even partition at random."""

from __future__ import annotations

import numpy as np

from privfl.data.partitions import IntArray, Partition


class Iid(Partition):
    """Every example goes to a client drawn uniformly; clients differ in size by at most one."""

    def owners(
        self,
        labels_N: IntArray,
        natural_N: IntArray | None,  # noqa: ARG002
        clients: int,
        generator: np.random.Generator,
    ) -> IntArray:
        """See :class:`Partition`."""
        return generator.permutation(np.arange(len(labels_N), dtype=np.int64) % clients)

    def words(self) -> str:
        """See :class:`Partition`."""
        return "dealt evenly at random"
