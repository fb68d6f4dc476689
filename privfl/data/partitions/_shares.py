"""Shares drawn from a Dirichlet distribution, and examples cut by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privfl.data.partitions import IntArray


def shares(clients: int, alpha: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """One draw from Dirichlet(alpha, ..., alpha), of shape (K,).

    As alpha goes to 0, all goes to one client; if the draw underflows, that limit is taken.
    """
    shares_K = generator.dirichlet(np.full(clients, alpha))
    if not np.isclose(shares_K.sum(), 1.0):
        shares_K = np.eye(clients)[generator.integers(clients)]
    return shares_K


def by_shares(examples: int, shares_K: NDArray[np.float64]) -> IntArray:
    """Cut ``examples`` places at the cumulated shares; the owner of each place, ascending."""
    cuts = np.round(np.cumsum(shares_K)[:-1] * examples).astype(np.int64)
    return np.searchsorted(cuts, np.arange(examples), side="right").astype(np.int64)


def without_full(shares_K: NDArray[np.float64], sizes_K: IntArray, examples: int) -> NDArray[np.float64]:
    """The shares of the clients that have fewer than N / K of the examples, scaled to a sum of 1; those of the others are 0.

    If the clients that are left have shares of 0, which a small alpha rounds to, they share evenly.
    """
    open_K = sizes_K < examples / len(sizes_K)
    left_K = np.where(open_K, shares_K, 0.0)
    if left_K.sum() <= 0:
        left_K = open_K.astype(np.float64)
    return np.asarray(left_K / left_K.sum(), dtype=np.float64)


REMEDY = "fewer data.clients, a larger data.partition.alpha, or another seed"
"""The way out if a share is empty."""
