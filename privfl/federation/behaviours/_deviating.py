"""The base of min-max and min-sum: the mean, moved as far as distances to the attackers' correct updates allow."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from privfl.federation.behaviours._colluding import ColludingBehaviour


class DeviatingBehaviour(ColludingBehaviour):
    """All attackers send m − γ·u with their mean m, a direction u and the largest γ that the distances allow.

    The authors search for γ by halving steps, from 10 and up to 20. Their condition is quadratic in γ, so the largest solution
    is computed here, and it has no upper limit. One attacker alone has no distances and sends its correct update.

    ``deviation``: the direction u (Shejwalkar and Houmansadr 2021).
        ``unit``: m / |m|.
        ``sign``: the sign of each coordinate of m.
        ``std``: the standard deviation of each coordinate, which divides by f − 1.
    """

    deviation: Literal["unit", "sign", "std"] = "std"

    @abstractmethod
    def largest(self, honest_FD: Tensor, mean_D: Tensor, deviation_D: Tensor) -> Tensor:
        """γ ≥ 0, the largest that the condition allows, for a deviation that is not zero."""

    def craft(self, honest_FD: Tensor, clients: int) -> Tensor:  # noqa: ARG002
        """The vector m − γ·u."""
        mean_D = honest_FD.mean(0)
        if len(honest_FD) == 1:
            return mean_D
        deviation_D = self._deviation(honest_FD, mean_D)
        if not deviation_D.any():
            return mean_D
        return mean_D - self.largest(honest_FD, mean_D, deviation_D) * deviation_D

    def _deviation(self, honest_FD: Tensor, mean_D: Tensor) -> Tensor:
        if self.deviation == "std":
            return honest_FD.std(0)
        if self.deviation == "sign":
            return mean_D.sign()
        return torch.nn.functional.normalize(mean_D, dim=0, eps=0.0) if mean_D.any() else mean_D


def mutual_distances(honest_FD: Tensor) -> Tensor:
    """The squared distance of each pair of updates, of shape (F, F)."""
    return torch.stack([(honest_FD - one_D).square().sum(1) for one_D in honest_FD])
