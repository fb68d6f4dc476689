"""A plan that forgets to clip: the sensitivity battery must find it."""

from __future__ import annotations

from torch import Tensor

from own_items.smooth import Smooth, SmoothPlan
from privfl.config import ExperimentConfig
from privfl.privacy.plans import Contribution, Federation, PlanState
from privfl.seeding import Seed
from privfl.vectors import Layout


class UnclippedPlan(SmoothPlan):
    """Noise for a norm of C on updates of any length."""

    def at_client(self, delta_D: Tensor, layout: Layout, state: PlanState, stream: Seed, rounding: float = 0.0) -> Contribution:
        return Contribution(delta_D.nan_to_num(), True, self.planned())


class Unclipped(Smooth):
    """As those of :class:`Smooth`."""

    def plan(self, config: ExperimentConfig, federation: Federation) -> UnclippedPlan:
        return UnclippedPlan(**self.shared())
