"""Who is lost in a simulated round, and at which stage: drawn at given rates, or as a schedule says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from privfl.secagg.prg import Keystream
from privfl.secagg.session import Stage


def drawn_losses(clients: Sequence[int], rates: Mapping[Stage, float], key: bytes) -> dict[int, Stage]:
    """Each client that reaches a stage is lost there with the stage's rate, independently of all else.

    Args:
        clients: the cohort.
        rates: in [0, 1]; a stage without one loses nobody.
        key: 32 bytes; equal keys lose the same clients.
    """
    words = np.empty(len(clients) * len(Stage), np.uint64)
    Keystream(key).fill(words)
    coin_KS = (words >> np.uint64(11)).astype(np.float64).reshape(len(clients), len(Stage)) * 2.0**-53
    lost: dict[int, Stage] = {}
    for client, coin_S in zip(sorted(clients), coin_KS, strict=True):
        for stage, coin in zip(Stage, coin_S, strict=True):
            if coin < rates.get(stage, 0.0):
                lost[client] = stage
                break
    return lost
