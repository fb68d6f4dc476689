"""Local noise: each client adds Gaussian noise to its own clipped update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.privacy.client_plans import PUBLIC_COHORT, ClientSettings, PublicCohortPlan
from privfl.privacy.events import NoisyUpdate
from privfl.privacy.gaussian import noised, require_noise
from privfl.privacy.plans import Contribution, Federation, PlanState, PlanWords
from privfl.seeding import Seed
from privfl.vectors import Layout


@dataclass(frozen=True)
class LocalPlan(PublicCohortPlan):
    """Each client adds Gaussian noise to its own clipped update before it leaves.

    **Guarantees.** For each client: everything that it ever sends is (ε, δ)-indistinguishable when its data are there or
    its update is zero, to any adversary, the server included. Who takes part is public, and nothing is gained from it: a
    client spends in every round in which it takes part, and the headline is the largest over the clients. Under
    replacement of a client's data the same noise is worth half as much; the card prints both.

    Edges: a zero or non-finite update becomes pure noise; a cohort that the aggregator cannot take is not asked.
    """

    def planned(self, size: int = 0) -> NoisyUpdate:  # noqa: ARG002
        """Of each client of the cohort."""
        return NoisyUpdate(noise_multiplier=self._noise(), max_update_norm=self.max_update_norm)

    def at_client(self, delta_D: Tensor, layout: Layout, state: PlanState, stream: Seed, rounding: float = 0.0) -> Contribution:
        """Clip, then noise."""
        clipped, event = super().at_client(delta_D, layout, state, stream, rounding), self.planned()
        noised_D = noised(clipped.delta_D, self._noise(), self.max_update_norm, stream / "noise", self.randomness)
        require_noise(noised_D - clipped.delta_D, event.noise_multiplier * event.max_update_norm)
        return Contribution(noised_D.float(), clipped.within, event)


class ClientLocal(ClientSettings):
    """Each client adds Gaussian noise to its own clipped update: protected from the server too, and the costliest."""

    noises_messages: ClassVar[bool] = True

    def plan(self, config: ExperimentConfig, federation: Federation) -> LocalPlan:  # noqa: ARG002
        """See :class:`PlanSettings`."""
        return LocalPlan(**self.shared())

    def words(self, sampler: str) -> PlanWords:  # noqa: ARG002
        """See :class:`PlanSettings`."""
        return PlanWords(
            noise="Each client clips its whole update to L2 norm {clip} and adds Gaussian noise of standard deviation "
            "{noise} × {clip} to it before it is sent.",
            public=PUBLIC_COHORT,
        )
