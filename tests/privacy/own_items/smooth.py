"""A plan as a user may write it: local noise on updates that are shrunk smoothly in place of being clipped."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.privacy.client_plans import PUBLIC_COHORT, ClientSettings, PublicCohortPlan
from privfl.privacy.events import NoisyUpdate
from privfl.privacy.gaussian import noised
from privfl.privacy.plans import Contribution, Federation, PlanState, PlanWords
from privfl.seeding import Seed
from privfl.vectors import Layout


class SmoothPlan(PublicCohortPlan):
    """Δ · C / (C + ‖Δ‖), and Gaussian noise."""

    def planned(self, size: int = 0) -> NoisyUpdate:
        return NoisyUpdate(noise_multiplier=self._noise(), max_update_norm=self.max_update_norm)

    def at_client(self, delta_D: Tensor, layout: Layout, state: PlanState, stream: Seed, rounding: float = 0.0) -> Contribution:
        shrunk_D = delta_D.double().nan_to_num(0.0, 0.0, 0.0)
        shrunk_D = shrunk_D * self.max_update_norm / (self.max_update_norm + float(shrunk_D.norm()))
        noisy_D = noised(shrunk_D, self._noise(), self.max_update_norm, stream / "noise", self.randomness)
        return Contribution(noisy_D.float(), False, self.planned())


class Smooth(ClientSettings):
    """The settings of every client-level plan, and no others."""

    noises_messages: ClassVar[bool] = True

    def plan(self, config: ExperimentConfig, federation: Federation) -> SmoothPlan:
        return SmoothPlan(**self.shared())

    def words(self, sampler: str) -> PlanWords:
        return PlanWords(
            noise="Each update is shrunk to less than {clip}; noise of {noise} × {clip} is added.", public=PUBLIC_COHORT
        )
