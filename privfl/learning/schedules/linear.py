"""A learning rate that falls along a straight line, then stays."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from privfl.learning.schedules import Schedule


class Linear(Schedule):
    """From 1 to ``floor`` over the first ``over`` rounds or steps, and ``floor`` from then on (Abadi et al. 2016, section 5.2).

    Args:
        over: number of rounds or steps after which the factor is ``floor``.
        floor: the last factor.
    """

    over: PositiveInt = 10
    floor: Annotated[float, Field(gt=0, le=1)] = 0.1

    def after_warmup(self, at: int, length: int) -> float:  # noqa: ARG002
        """See the class."""
        return max(1 - (1 - self.floor) * at / self.over, self.floor)
