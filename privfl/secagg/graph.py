"""Communication graph: the clients that hold each client's shares, and the pairs of clients that mask with each other.

In a **complete** graph every client holds shares of every other and masks with it. In a **sparse** graph each client has k
neighbours. A semi-honest server chooses them, by a circulant graph over a random order (Bell et al. 2020, section 3.1). Against
an active server each client draws the k holders of its shares itself, from randomness that nobody else has, and masks with
those that it drew and those that drew it (ibid., section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privfl.secagg.prg import Keystream

Clients = NDArray[np.uint32]
"""Client numbers, ascending."""


def circulant(clients: Sequence[int], degree: int, key: bytes) -> dict[int, Clients]:
    """Circulant graph: each client's neighbours are the ``degree`` nearest ones on a ring in random order.

    Args:
        clients: distinct client numbers.
        degree: number of neighbours, even and below the number of clients.
        key: 32 fresh bytes, from which the order is made.
    """
    ring = np.array(sorted(clients), np.uint32)[_order(len(clients), key)]
    steps = [*range(-(degree // 2), 0), *range(1, degree // 2 + 1)]
    around = np.sort(np.stack([np.roll(ring, -step) for step in steps], axis=1), axis=1)
    return dict(zip(ring.tolist(), around, strict=True))


def drawn(clients: Sequence[int], own: int, degree: int, key: bytes) -> Clients:
    """Draw ``degree`` of the other clients, uniformly without replacement.

    Args:
        clients: distinct client numbers; ``own`` may be among them.
        own: the client that draws.
        degree: number of clients to draw, at most that of the others.
        key: 32 fresh bytes of the client that draws.
    """
    others = np.array([client for client in clients if client != own], np.uint32)
    return np.sort(others[_order(len(others), key)[:degree]])


def united(drawn_by: Mapping[int, Clients]) -> dict[int, Clients]:
    """Peers of each client that drew its own holders: those that it drew and those that drew it.

    A client that was drawn and did not draw itself is nobody's peer.
    """
    among = set(drawn_by)
    peers: dict[int, set[int]] = {client: set(found.tolist()) & among for client, found in drawn_by.items()}
    for client, found in drawn_by.items():
        for other in found.tolist():
            if other in among:
                peers[other].add(client)
    return {client: np.array(sorted(found), np.uint32) for client, found in peers.items()}


def _order(count: int, key: bytes) -> NDArray[np.intp]:
    """A random order of ``count`` places: that of 64-bit words.

    It is uniform unless two words are equal, which has a probability of at most count² / 2^65.
    """
    words = np.empty(count, np.uint64)
    Keystream(key).fill(words)
    return np.argsort(words, kind="stable")
