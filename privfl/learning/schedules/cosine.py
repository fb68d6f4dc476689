"""A learning rate that falls along half a cosine (Loshchilov and Hutter 2017, equation 5)."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from privfl.learning.schedules import Schedule


class Cosine(Schedule):
    """From 1 to ``floor``, f + (1 − f)(1 + cos(π t / T)) / 2, over all T rounds of the run or all T steps of the client."""

    floor: Annotated[float, Field(ge=0, le=1)] = 0.0

    def after_warmup(self, at: int, length: int) -> float:
        """See the class."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(at, length) / length)) / 2
