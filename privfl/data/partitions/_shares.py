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


REMEDY = "fewer data.clients, a larger data.partition.alpha, or another seed"
"""The way out if a share is empty."""
