"""An engine that trains nothing: what a round takes with it, it takes outside of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from privfl.learning.training import LocalResult, LocalTask, Trainer
from privfl.privacy.plans.example import ExamplePlan


class Idle(Trainer):
    """Every client hands in one and the same vector, and charges its plan for it."""

    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """See the contract."""
        update_D = torch.full_like(global_D, 1e-3)
        plan = self.plan
        events = [plan.planned(task.size) if isinstance(plan, ExamplePlan) else None for task in tasks]
        return [LocalResult(task.client, update_D, 0.0, 0.0, event) for task, event in zip(tasks, events, strict=True)]

    def parts(self, clients: int, global_D: Tensor, x: Tensor) -> int:  # noqa: ARG002
        """The whole cohort at once."""
        return 1
