"""Krum and m-Krum (Blanchard et al. 2017, "Machine learning with adversaries: Byzantine tolerant gradient descent")."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from privfl.federation.aggregators._rows import (
    ByzantineShare,
    RobustRule,
    byzantine,
    krum_scores,
    repeated_krum,
    squared_distances,
)


class Krum(RobustRule):
    """The update, or the mean of ``selected`` updates, with the least squared distances to its n − f − 2 nearest neighbours.

    It withstands f clients with 2f + 2 < n, f = ⌊``byzantine_share`` · n⌋; a larger f is lowered to that. Weights are not used.
    Equal scores are taken by ascending client.

    ``selection``: how more than one update is selected.
        ``once``: those of the lowest scores, as libraries do.
        ``repeated``: Krum's choice is set aside, and Krum chooses again among the others, as the paper does (section 6). It
        asks for n − m > 2f + 2, and m is lowered to that.
    """

    byzantine_share: ByzantineShare = 0.2
    selected: PositiveInt = 1
    selection: Literal["once", "repeated"] = "once"

    def combine(self, updates_KD: Tensor, weights_K: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`RobustRule`."""
        clients = len(updates_KD)
        faulty = byzantine(self.byzantine_share, clients, (clients - 3) // 2)
        distances_KK = squared_distances(updates_KD)
        if self.selection == "once":
            order_K = krum_scores(distances_KK, faulty).argsort(stable=True)
            chosen = order_K[: min(self.selected, clients - faulty)].tolist()
        else:
            chosen = repeated_krum(distances_KK, faulty, max(1, min(self.selected, clients - 2 * faulty - 3)))
        return updates_KD[sorted(chosen)].mean(0)
