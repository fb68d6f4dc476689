"""SHELF of partitions: who owns which example. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Partition`. Every example gets exactly one owner, and all draws
come from the generator that is passed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from privfl.config import PartitionConfig
from privfl.errors import DataError, ItemError

IntArray = NDArray[np.int64]


class Partition(PartitionConfig, ABC):
    """The contract of this shelf."""

    @abstractmethod
    def owners(self, labels_N: IntArray, natural_N: IntArray | None, clients: int, generator: np.random.Generator) -> IntArray:
        """Each example's owner, from 0 to ``clients`` - 1, of shape (N,), int64.

        Args:
            labels_N: each example's class, from 0.
            natural_N: the client that the data themselves name for each example; None if they name none.
            clients: K, how many clients there are, at least 1.
            generator: the source of all draws.

        Raises:
            DataError: the data cannot be divided so.
        """

    @abstractmethod
    def words(self) -> str:
        """How the examples were dealt to the clients, for the page."""

    def remedy(self) -> str:
        """The settings to change if a client is left with no example."""
        return "fewer data.clients"


def assign(
    partition: Partition, labels_N: IntArray, natural_N: IntArray | None, clients: int, generator: np.random.Generator
) -> IntArray:
    """The owners that a partition gives, checked: arguments and result as of :meth:`Partition.owners`.

    Raises:
        DataError: a client is left with no example, or the data cannot be divided so.
        ItemError: the partition gave something else than owners.
    """
    owner_N: object = partition.owners(labels_N, natural_N, clients, generator)
    if not isinstance(owner_N, np.ndarray) or owner_N.shape != labels_N.shape or owner_N.dtype != np.int64 or owner_N.min() < 0:
        found = f"an array of {owner_N.dtype} and shape {owner_N.shape}" if isinstance(owner_N, np.ndarray) else repr(owner_N)
        raise ItemError(
            f"partition {partition.kind!r}: owners() must return one owner from 0 for each example, int64 of shape "
            f"{labels_N.shape}; it returned {found[:80]}"
        )
    counts_K = np.bincount(owner_N, minlength=clients)
    if len(counts_K) > clients:
        raise DataError(f"data.clients = {clients}: the data name {len(counts_K)} clients; leave data.clients out")
    empty = np.flatnonzero(counts_K == 0)
    if len(empty):
        raise DataError(
            f"client {empty[0]} is left with no example ({len(empty)} of {clients} clients are, "
            f"under data.partition.kind = {partition.kind!r}): {partition.remedy()}"
        )
    return owner_N
