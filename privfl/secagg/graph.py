"""Who holds whose shares, and who masks with whom.

In a **complete** graph everyone does with everyone. In a **sparse** one each client has k neighbours: against a semi-honest
server that server picks them, a circulant graph over a random order (Bell et al. 2020, section 3.1); against an active
one each client draws the k holders of its shares itself, from randomness that nobody else has, and masks with those it
drew and those who drew it (ibid., section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privfl.secagg.prg import Keystream

Clients = NDArray[np.uint32]
"""Client numbers, ascending."""


def circulant(clients: Sequence[int], degree: int, key: bytes) -> dict[int, Clients]:
    """Each client's neighbours: the ``degree`` nearest on a ring in random order.

    Args:
        clients: distinct.
        degree: even, below the number of clients.
        key: 32 fresh bytes; the order is made from it.
    """
    ring = np.array(sorted(clients), np.uint32)[_order(len(clients), key)]
    steps = [*range(-(degree // 2), 0), *range(1, degree // 2 + 1)]
    around = np.sort(np.stack([np.roll(ring, -step) for step in steps], axis=1), axis=1)
    return dict(zip(ring.tolist(), around, strict=True))


def drawn(clients: Sequence[int], own: int, degree: int, key: bytes) -> Clients:
    """``degree`` of the others, uniformly without replacement.

    Args:
        clients: distinct; ``own`` may be among them.
        own: who draws.
        degree: at most the number of others.
        key: 32 fresh bytes of the one who draws.
    """
    others = np.array([client for client in clients if client != own], np.uint32)
    return np.sort(others[_order(len(others), key)[:degree]])


def united(drawn_by: Mapping[int, Clients]) -> dict[int, Clients]:
    """Who masks with whom where each drew for itself: those it drew, and those who drew it, as far as they drew at all."""
    among = set(drawn_by)
    peers: dict[int, set[int]] = {client: set(found.tolist()) & among for client, found in drawn_by.items()}
    for client, found in drawn_by.items():
        for other in found.tolist():
            if other in among:
                peers[other].add(client)
    return {client: np.array(sorted(found), np.uint32) for client, found in peers.items()}


def _order(count: int, key: bytes) -> NDArray[np.intp]:
    """A uniform random order: that of 64-bit words of which no two are equal, up to count² / 2^65."""
    words = np.empty(count, np.uint64)
    Keystream(key).fill(words)
    return np.argsort(words, kind="stable")
