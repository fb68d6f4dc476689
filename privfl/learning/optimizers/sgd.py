"""Stochastic gradient descent, with momentum and weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from privfl.config import TrainingConfig
from privfl.learning.optimizers import LocalOptimizer


class Sgd(LocalOptimizer):
    """v ← ρ v + g + λ w;  w ← w − η v, as ``torch.optim.SGD``: ρ is ``training.momentum``, λ ``training.weight_decay``."""

    def slots(self, training: TrainingConfig) -> tuple[str, ...]:
        """``velocity``, with momentum."""
        return ("velocity",) if training.momentum else ()

    def step(
        self,
        training: TrainingConfig,
        weights: Tensor,
        gradients: Tensor,
        state: Mapping[str, Tensor],
        lr: float,
        taken: int,  # noqa: ARG002
    ) -> None:
        """See the class."""
        if training.weight_decay:
            gradients.add_(weights, alpha=training.weight_decay)
        if training.momentum:
            gradients = state["velocity"].mul_(training.momentum).add_(gradients)
        weights.add_(gradients, alpha=-lr)

    def plain(self, training: TrainingConfig) -> bool:
        """Without momentum and weight decay."""
        return not (training.momentum or training.weight_decay)

    def gradient_weight(self, training: TrainingConfig, rates: Sequence[float], mu: float) -> float:
        """Exact: momentum and pull are linear in the gradients, so a unit gradient in each step gives the sum.

        With K steps of one rate it is K; (K − ρ(1−ρ^K)/(1−ρ)) / (1−ρ) with momentum; (1 − (1−ημ)^K) / (ημ) with the pull.
        Weight decay counts as a part of the objective's gradient.
        """
        moved, velocity = 0.0, 0.0
        for rate in rates:
            velocity = training.momentum * velocity + 1.0 - training.lr * mu * moved
            moved += rate / training.lr * velocity
        return moved
