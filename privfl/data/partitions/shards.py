"""Label skew by shards."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import PositiveInt

from privfl.data.partitions import IntArray, Partition


class Shards(Partition):
    """Examples sorted by class, cut into shards of one size, each client gets this many (McMahan 2017, section 3)."""

    by_class: ClassVar[bool] = True

    shards_per_client: PositiveInt = 2

    def owners(
        self,
        labels_N: IntArray,
        natural_N: IntArray | None,  # noqa: ARG002
        clients: int,
        generator: np.random.Generator,
    ) -> IntArray:
        """Sort by class, cut into K times ``shards_per_client`` shards, deal them.

        If N does not divide by the number of shards, their sizes differ by one.
        """
        shuffled = generator.permutation(len(labels_N))
        by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
        shards = clients * self.shards_per_client
        shard_N = np.arange(len(labels_N)) * shards // len(labels_N)
        owner_of_shard = generator.permutation(np.arange(shards, dtype=np.int64) % clients)
        owner_N = np.empty_like(labels_N)
        owner_N[by_class] = owner_of_shard[shard_N]
        return owner_N

    def words(self) -> str:
        """See :class:`Partition`."""
        return f"sorted by class and dealt in shards, {self.shards_per_client} to a client"

    def remedy(self) -> str:
        """See :class:`Partition`."""
        return "fewer data.clients or fewer data.partition.shards_per_client"
