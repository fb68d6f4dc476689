"""The partition that the data themselves have."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.data.partitions import IntArray, Partition
from privfl.errors import DataError


class Natural(Partition):
    """The clients that the data themselves name: hospitals, schools, states."""

    names_clients: ClassVar[bool] = True

    def owners(
        self,
        labels_N: IntArray,  # noqa: ARG002
        natural_N: IntArray | None,
        clients: int,  # noqa: ARG002
        generator: np.random.Generator,  # noqa: ARG002
    ) -> IntArray:
        """No draw is made."""
        if natural_N is None:
            raise DataError(
                "data.partition.kind = 'natural': this data set names no clients; allowed: iid, dirichlet, shards, quantity"
            )
        return natural_N

    def words(self) -> str:
        """See :class:`Partition`."""
        return "as the data itself divides them"

    def remedy(self) -> str:
        """See :class:`Partition`."""
        return "the data name a client without examples; choose another partition"
