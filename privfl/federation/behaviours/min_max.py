"""Min-max: colluding clients keep the largest distance of their vector within that of updates (Shejwalkar, Houmansadr 2021)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.behaviours._deviating import DeviatingBehaviour, mutual_distances


class MinMax(DeviatingBehaviour):
    """Min-max: the largest distance to a correct update of an attacker is that between two of them."""

    def largest(self, honest_FD: Tensor, mean_D: Tensor, deviation_D: Tensor) -> Tensor:
        """The smallest of the attackers' solutions of |m − g_i|² − 2γ⟨m − g_i, u⟩ + γ²|u|² = max |g_j − g_k|²."""
        apart_FD, square = mean_D - honest_FD, deviation_D.square().sum()
        along_F = apart_FD @ deviation_D
        # No update is farther from the mean than from the update that is farthest from it, so the room is at least 0.
        room_F = (mutual_distances(honest_FD).max() - apart_FD.square().sum(1)).clamp(min=0)
        return ((along_F + (along_F.square() + square * room_F).sqrt()) / square).min()
