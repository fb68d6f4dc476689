"""A constant learning rate."""

from __future__ import annotations

from privfl.learning.schedules import Schedule


class Constant(Schedule):
    """1 throughout, after the warm-up."""

    def after_warmup(self, at: int, length: int) -> float:  # noqa: ARG002
        """See the class."""
        return 1.0
