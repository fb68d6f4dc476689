"""The coordinate-wise median (Yin et al. 2018, "Byzantine-robust distributed learning", definition 1)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.aggregators._rows import RobustRule


class Median(RobustRule):
    """The median of each coordinate over the clients, the mean of the two middle values if their number is even.

    It withstands fewer than half of the clients. Weights are not used.
    """

    def combine(self, updates_KD: Tensor, weights_K: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`RobustRule`."""
        sorted_KD = updates_KD.sort(0).values
        clients = len(sorted_KD)
        return (sorted_KD[(clients - 1) // 2] + sorted_KD[clients // 2]) / 2
