"""The step that Adam and AdamW share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import PositiveFloat
from torch import Tensor

from privfl.config import TrainingConfig
from privfl.learning.optimizers import Decay, LocalOptimizer


class Moments(LocalOptimizer):
    """m ← β1 m + (1−β1) g;  v ← β2 v + (1−β2) g²;  w ← w − η m̂ / (√v̂ + ε), both corrected for their start at zero.

    Kingma and Ba (2015), algorithm 1.
    """

    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: PositiveFloat = 1e-8

    def slots(self, training: TrainingConfig) -> tuple[str, ...]:  # noqa: ARG002
        """``first`` and ``second``."""
        return ("first", "second")

    def moved(self, weights: Tensor, gradients: Tensor, state: Mapping[str, Tensor], lr: float, taken: int) -> None:
        """The step, without weight decay; ``gradients`` are used up."""
        first, second = state["first"], state["second"]
        first.lerp_(gradients, 1 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradients, gradients, value=1 - self.beta2)
        root = torch.sqrt(second, out=gradients).div_(math.sqrt(1 - self.beta2 ** (taken + 1))).add_(self.eps)
        weights.addcdiv_(first, root, value=-lr / (1 - self.beta1 ** (taken + 1)))
