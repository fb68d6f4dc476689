"""A learning rate that falls in steps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from privfl.learning.schedules import Schedule


class Step(Schedule):
    """``gamma`` to the power of ⌊t / ``every``⌋, as ``torch.optim.lr_scheduler.StepLR``."""

    every: PositiveInt = 10
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    def after_warmup(self, at: int, length: int) -> float:  # noqa: ARG002
        """See the class."""
        return float(self.gamma ** (at // self.every))
