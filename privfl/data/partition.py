"""Who owns which example: iid, Dirichlet label skew, shards, quantity skew, natural.

Every example gets exactly one owner. All draws come from the generator that is passed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privfl.config import Dirichlet, Iid, Natural, Partition, QuantitySkew, Shards
from privfl.errors import DataError

IntArray = NDArray[np.int64]


def assign(
    partition: Partition, labels_N: IntArray, natural_N: IntArray | None, clients: int, generator: np.random.Generator
) -> IntArray:
    """Deal N examples to ``clients`` clients.

    Args:
        partition: how.
        labels_N: each example's class, from 0.
        natural_N: the client that the data itself names for each example; None where it names none.
        clients: how many clients there are, at least 1; the natural partition has as many as the data names.
        generator: where the draws come from; the natural partition makes none.

    Returns:
        owner_N: each example's owner, from 0 to ``clients`` - 1.

    Raises:
        DataError: a client is left with no example, or the data name no clients and ``natural`` was asked for.
    """
    owner_N = _dealt(partition, labels_N, natural_N, clients, generator)
    assert owner_N.shape == labels_N.shape
    counts_K = np.bincount(owner_N, minlength=clients)
    if len(counts_K) > clients:
        raise DataError(f"data.clients = {clients}: the data name {len(counts_K)} clients; leave data.clients out")
    empty = np.flatnonzero(counts_K == 0)
    if len(empty):
        raise DataError(
            f"client {empty[0]} is left with no example ({len(empty)} of {clients} clients are, "
            f"under data.partition.kind = {partition.kind!r}): {_remedy(partition)}"
        )
    return owner_N


def _dealt(
    partition: Partition, labels_N: IntArray, natural_N: IntArray | None, clients: int, generator: np.random.Generator
) -> IntArray:
    match partition:
        case Iid():
            return _iid(len(labels_N), clients, generator)
        case Dirichlet(alpha=alpha):
            return _dirichlet(labels_N, clients, alpha, generator)
        case Shards(shards_per_client=shards):
            return _shards(labels_N, clients, shards, generator)
        case QuantitySkew(alpha=alpha):
            return _quantity(len(labels_N), clients, alpha, generator)
        case Natural():
            if natural_N is None:
                raise DataError(
                    "data.partition.kind = 'natural': this data set names no clients; allowed: iid, dirichlet, shards, quantity"
                )
            return natural_N


def _iid(examples: int, clients: int, generator: np.random.Generator) -> IntArray:
    """Client sizes differ by at most one."""
    return generator.permutation(np.arange(examples, dtype=np.int64) % clients)


def _dirichlet(labels_N: IntArray, clients: int, alpha: float, generator: np.random.Generator) -> IntArray:
    """For each class c, p_c ~ Dirichlet(alpha, ..., alpha) over the clients (Hsu 2019; Yurochkin 2019, section 4)."""
    owner_N = np.empty_like(labels_N)
    for label in np.unique(labels_N):
        members = generator.permutation(np.flatnonzero(labels_N == label))
        owner_N[members] = _by_shares(len(members), _shares(clients, alpha, generator))
    return owner_N


def _shards(labels_N: IntArray, clients: int, shards_per_client: int, generator: np.random.Generator) -> IntArray:
    """Sort by class, cut into clients * shards_per_client shards, deal them (McMahan 2017, section 3).

    Where N does not divide by the number of shards, their sizes differ by one.
    """
    shuffled = generator.permutation(len(labels_N))
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    shards = clients * shards_per_client
    shard_N = np.arange(len(labels_N)) * shards // len(labels_N)
    owner_of_shard = generator.permutation(np.arange(shards, dtype=np.int64) % clients)
    owner_N = np.empty_like(labels_N)
    owner_N[by_class] = owner_of_shard[shard_N]
    return owner_N


def _quantity(examples: int, clients: int, alpha: float, generator: np.random.Generator) -> IntArray:
    """Client sizes ~ Dirichlet(alpha, ..., alpha), classes at random (Li 2022, section IV-C)."""
    owner_N = np.empty(examples, dtype=np.int64)
    owner_N[generator.permutation(examples)] = _by_shares(examples, _shares(clients, alpha, generator))
    return owner_N


def _shares(clients: int, alpha: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """One draw from Dirichlet(alpha, ..., alpha).

    As alpha goes to 0, all goes to one client; where the draw underflows, that limit is taken.
    """
    shares_K = generator.dirichlet(np.full(clients, alpha))
    if not np.isclose(shares_K.sum(), 1.0):
        shares_K = np.eye(clients)[generator.integers(clients)]
    return shares_K


def _by_shares(examples: int, shares_K: NDArray[np.float64]) -> IntArray:
    """Cut ``examples`` places at the cumulated shares; the owner of each place, ascending."""
    cuts = np.round(np.cumsum(shares_K)[:-1] * examples).astype(np.int64)
    return np.searchsorted(cuts, np.arange(examples), side="right").astype(np.int64)


def _remedy(partition: Partition) -> str:
    match partition:
        case Dirichlet() | QuantitySkew():
            return "fewer data.clients, a larger data.partition.alpha, or another seed"
        case Shards():
            return "fewer data.clients or fewer data.partition.shards_per_client"
        case Natural():
            return "the data name a client without examples; choose another partition"
        case _:
            return "fewer data.clients"
