"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from privfl.config import TrainingConfig
from privfl.learning.optimizers._moments import Moments


class AdamW(Moments):
    """AdamW, as ``torch.optim.AdamW``: weights decay by ηλ apart from the gradient.

    λ is ``training.weight_decay``: 0 unless it is set, although PyTorch's default is 0.01.
    """

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
            weights.mul_(1 - lr * training.weight_decay)
        self.moved(weights, gradients, state, lr, taken)
