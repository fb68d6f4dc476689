"""Dropout in a simulated round: draw which clients are lost, and at which stage, at given rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from privfl.secagg.prg import Keystream
from privfl.secagg.session import Stage


def drawn_losses(clients: Sequence[int], rates: Mapping[Stage, float], key: bytes) -> dict[int, Stage]:
    """Draw the lost clients: each one that reaches a stage is lost there with the stage's rate, independently of all else.

    Args:
        clients: the cohort.
        rates: stage -> rate in [0, 1]; a stage without a rate loses nobody.
        key: 32 bytes; equal keys lose the same clients.

    Returns:
        lost client -> the stage at which it is lost.
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


def with_late(lost: Mapping[int, Stage], late: Collection[int]) -> dict[int, Stage]:
    """The losses, with late clients among them: they fall silent at the masked input, or earlier if they are lost earlier."""
    found = dict(lost)
    for client in late:
        found[client] = min(lost.get(client, Stage.MASKED_INPUT), Stage.MASKED_INPUT, key=list(Stage).index)
    return found
