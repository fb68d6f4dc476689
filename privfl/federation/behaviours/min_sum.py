"""Min-sum: colluding clients keep the sum of squared distances of their vector within that of updates (Shejwalkar 2021)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.behaviours._deviating import DeviatingBehaviour, mutual_distances


class MinSum(DeviatingBehaviour):
    """Min-sum: the squared distances to the attackers' correct updates add up to the most of any such update."""

    def largest(self, honest_FD: Tensor, mean_D: Tensor, deviation_D: Tensor) -> Tensor:
        """The solution of Σ |m − g_i|² + fγ²|u|² = max_j Σ |g_j − g_i|²; the distances from the mean cancel in between."""
        room = mutual_distances(honest_FD).sum(1).max() - (mean_D - honest_FD).square().sum()
        return (room.clamp(min=0) / (len(honest_FD) * deviation_D.square().sum())).sqrt()
