"""SHELF of local optimizers. The file's name is its name in a configuration (``training.optimizer``).

An item is one module with one class that derives from :class:`LocalOptimizer`. Both engines call the same code: the reference
for each parameter of one client, the fused engine for the stacked weights of a cohort. A step must therefore be entry by entry.

The gradient that an optimizer gets is clipped and noised already if the plan is example-level, and drift and pull are added.
Its state is fresh in each round, so nothing goes from one client to another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from privfl.config import TrainingConfig
from privfl.tables import Item, narrow

Decay = Annotated[float, Field(ge=0, lt=1)]


class LocalOptimizer(Item, ABC):
    """The contract of this shelf."""

    @abstractmethod
    def slots(self, training: TrainingConfig) -> tuple[str, ...]:
        """Names of the state's tensors, each of the weights' shape and zero before the first step."""

    @abstractmethod
    def step(
        self,
        training: TrainingConfig,
        weights: Tensor,
        gradients: Tensor,
        state: Mapping[str, Tensor],
        lr: float,
        taken: int,
    ) -> None:
        """One step, in place on ``weights`` and ``state``; entry by entry.

        Args:
            training: has ``weight_decay`` and ``momentum``.
            weights: of any shape.
            gradients: of that shape; they may be used up.
            state: a tensor of that shape for each name of :meth:`slots`.
            lr: the learning rate of this step.
            taken: how many steps were taken before.
        """

    def plain(self, training: TrainingConfig) -> bool:  # noqa: ARG002
        """Whether a step is w − η g and nothing else; an engine may take it by a shorter way."""
        return False

    def gradient_weight(self, training: TrainingConfig, rates: Sequence[float], mu: float) -> float | None:  # noqa: ARG002
        """FedNova's ‖a‖₁: the update is −``training.lr`` Σ_j a_j g_j. None if an update is not linear in its gradients.

        Args:
            training: has the learning rate η and the momentum.
            rates: the learning rate of each step.
            mu: the strength of the pull.
        """
        return None


def optimizer_of(training: TrainingConfig) -> LocalOptimizer:
    """The local optimizer of these settings."""
    return narrow(training.optimizer, LocalOptimizer)
