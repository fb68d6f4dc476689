"""SHELF of learning-rate schedules. The file's name is its name in a configuration.

``training.round_schedule`` is a factor for each round, ``training.step_schedule`` one for each local step. A step's learning
rate is ``training.lr`` times both. An item is one module with one class that derives from :class:`Schedule`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import NonNegativeInt

from privfl.tables import Item, narrow


class Schedule(Item, ABC):
    """The contract of this shelf.

    Args:
        warmup: w ≥ 0; the factors before it rise linearly, (t + 1) / (w + 1) (Goyal et al. 2017, section 2.2).
    """

    warmup: NonNegativeInt = 0

    def factor(self, at: int, length: int) -> float:
        """The factor of round or step ``at``, from 0, of ``length``."""
        if at < self.warmup:
            return (at + 1) / (self.warmup + 1)
        return self.after_warmup(at - self.warmup, max(1, length - self.warmup))

    @abstractmethod
    def after_warmup(self, at: int, length: int) -> float:
        """The same without warm-up: above 0, or 0 from ``length`` on."""


def schedule_of(item: Item) -> Schedule:
    """The item as the schedule that it is."""
    return narrow(item, Schedule)
