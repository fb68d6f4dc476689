"""A few classes for each client, in uneven numbers."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from privfl.data.partitions import IntArray, Partition
from privfl.data.partitions._shares import by_shares
from privfl.errors import DataError


class Classes(Partition):
    """Client k has ``classes_per_client`` neighbouring classes, from class k modulo C on (Dinh 2020, section 5.1).

    A class is divided among its clients by weights exp(``spread`` · N(0, 1)), so that sizes differ; 0 divides it evenly.
    """

    by_class: ClassVar[bool] = True

    classes_per_client: PositiveInt = 2
    spread: Annotated[float, Field(ge=0, le=3)] = 0.0

    def owners(
        self,
        labels_N: IntArray,
        natural_N: IntArray | None,  # noqa: ARG002
        clients: int,
        generator: np.random.Generator,
    ) -> IntArray:
        """Divide each class among the clients that have it.

        Raises:
            DataError: a class has no client, or a client is to have more classes than there are.
        """
        classes = np.unique(labels_N)
        if self.classes_per_client > len(classes):
            raise DataError(
                f"data.partition.classes_per_client = {self.classes_per_client}: the data have {len(classes)} classes; lower it"
            )
        owner_N = np.empty_like(labels_N)
        for place, label in enumerate(classes):
            having = np.array([k for k in range(clients) if (place - k) % len(classes) < self.classes_per_client])
            if not len(having):
                raise DataError(
                    f"data.clients = {clients}: too few for {len(classes)} classes with data.partition.classes_per_client = "
                    f"{self.classes_per_client}, so that class {label} has no client; raise one of the two"
                )
            members = generator.permutation(np.flatnonzero(labels_N == label))
            weights = np.exp(self.spread * generator.standard_normal(len(having)))
            owner_N[members] = having[by_shares(len(members), weights / weights.sum())]
        return owner_N

    def words(self) -> str:
        """See :class:`Partition`."""
        uneven = ", unevenly" if self.spread else ""
        return f"{self.classes_per_client} classes to a client{uneven}"

    def remedy(self) -> str:
        """See :class:`Partition`."""
        return "fewer data.clients, or a lower data.partition.spread"
