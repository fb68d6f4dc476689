"""Adam (Kingma and Ba 2015)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from privfl.config import TrainingConfig
from privfl.learning.optimizers._moments import Moments


class Adam(Moments):
    """Adam, as ``torch.optim.Adam``: weight decay is a part of the gradient, λ w."""

    def step(
        self,
        training: TrainingConfig,
        weights: Tensor,
        gradients: Tensor,
        state: Mapping[str, Tensor],
        lr: float,
        taken: int,
    ) -> None:
        """See the class."""
        if training.weight_decay:
            gradients.add_(weights, alpha=training.weight_decay)
        self.moved(weights, gradients, state, lr, taken)
