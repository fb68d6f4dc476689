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
    """Client-level plan with local noise: each client adds Gaussian noise to its clipped update before sending it.

    **Guarantees.** For each client, everything that it ever sends is (ε, δ)-indistinguishable between a run with its updates
    and a run in which they are zero. This holds against every adversary, the server included. Who takes part is public and
    earns no amplification: a client spends in every round in which it takes part. The headline ε is the largest over the
    clients. Under replacement of a client's data the sensitivity doubles; the card prints both.

    Edges: a zero or non-finite update becomes pure noise; a cohort too small for the aggregator is not asked to train.
    """

    def planned(self, size: int = 0) -> NoisyUpdate:  # noqa: ARG002
        """The noisy update that each client of the cohort spends."""
        return NoisyUpdate(noise_multiplier=self._noise(), max_update_norm=self.max_update_norm)

    def at_client(self, delta_D: Tensor, layout: Layout, state: PlanState, stream: Seed, rounding: float = 0.0) -> Contribution:
        """One client's clipped update plus noise."""
        clipped, event = super().at_client(delta_D, layout, state, stream, rounding), self.planned()
        noised_D = noised(clipped.delta_D, self._noise(), self.max_update_norm, stream / "noise", self.randomness)
        require_noise(noised_D - clipped.delta_D, event.noise_multiplier * event.max_update_norm)
        return Contribution(noised_D.float(), clipped.within, event)


class ClientLocal(ClientSettings):
    """Local noise: each client adds Gaussian noise to its clipped update; needs no trusted server, and costs most accuracy."""

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
