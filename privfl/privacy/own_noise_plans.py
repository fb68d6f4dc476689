"""Client-level plans that do not trust the server: each client adds noise, or its share of it, to its own update."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from privfl.adversaries import Adversary
from privfl.privacy.client_plans import ClientPlan, Contribution, PlanState, Release, Total
from privfl.privacy.distributed import DistributedCodec
from privfl.privacy.draws import noised, require_noise
from privfl.privacy.events import NoiseShare, NoisyUpdate
from privfl.privacy.mechanisms import Relation
from privfl.seeding import Seed
from privfl.vectors import Layout


class PublicCohortPlan(ClientPlan):
    """What the plans share that do not trust the server: it sees who takes part, and each client spends for itself."""

    trusts_server: ClassVar[bool] = False

    @property
    def relation(self) -> Relation:
        """A client's update is there, or is zero; it takes part all the same."""
        return "add_or_remove_one"

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """Everybody that keeps to the protocol."""
        return ("external", "client", "server")

    def at_server(
        self,
        total: Total,
        state: PlanState,
        round_number: int,  # noqa: ARG002
        stream: Seed,  # noqa: ARG002
    ) -> Release:
        """The mean over those who took part, who are public."""
        return Release((total.sum_D / max(total.weight, 1.0)).float(), state, None)


@dataclass(frozen=True)
class LocalPlan(PublicCohortPlan):
    """Each client adds Gaussian noise to its own clipped update before it leaves.

    **Guarantees.** For each client: everything that it ever sends is (ε, δ)-indistinguishable when its data are there or
    its update is zero, to any adversary, the server included. Who takes part is public, and nothing is gained from it: a
    client spends in every round in which it takes part, and the headline is the largest over the clients. Under
    replacement of a client's data the same noise is worth half as much; the card prints both.

    Edges: a zero or non-finite update becomes pure noise; a cohort that the aggregator cannot take is not asked.
    """

    def planned(self) -> NoisyUpdate:
        """Of each client of the cohort."""
        return NoisyUpdate(noise_multiplier=self._noise(), max_update_norm=self.max_update_norm)

    def at_client(self, delta_D: Tensor, layout: Layout, state: PlanState, stream: Seed, rounding: float = 0.0) -> Contribution:
        """Clip, then noise."""
        clipped, event = super().at_client(delta_D, layout, state, stream, rounding), self.planned()
        noised_D = noised(clipped.delta_D, self._noise(), self.max_update_norm, stream / "noise", self.randomness)
        require_noise(noised_D - clipped.delta_D, event.noise_multiplier * event.max_update_norm)
        return Contribution(noised_D.float(), clipped.within, event)


@dataclass(frozen=True)
class DistributedPlan(PublicCohortPlan):
    """Each client adds a share of integer noise to its clipped update, inside secure aggregation.

    **Guarantees.** For each client: the sums that its update is in, and so all global models, are (ε, δ)-indistinguishable
    when its data are there or its update is zero, to any adversary that sees sums alone, the server included, as long as at
    least ``survivors`` honest clients add their share to every sum that is revealed. Shares are sized for these: a client
    that is lost takes its share with it, and the others' still suffice; a smaller cohort is not asked. Who takes part is
    public, and nothing is gained from it.

    Edges: those of :class:`privfl.privacy.distributed.DistributedCodec`; a non-finite update is a zero.

    Args:
        mechanism: the distribution of a share.
        bits: the size of a word on the wire.
        survivors: the honest clients whose shares are in a sum for certain.
        dimension: D.
        clients: the most clients that a sum may have.
    """

    mechanism: Literal["skellam", "discrete_gaussian"]
    bits: int
    survivors: int
    dimension: int
    clients: int

    @property
    def minimum_clients(self) -> int:
        """The floor of survivors."""
        return self.survivors

    def codec(self, rotation_key: bytes) -> DistributedCodec:
        """How clients encode; made anew each round with a public key that no update had a part in.

        Raises:
            ConfigError: so few bits hold no such sum.
        """
        return DistributedCodec.fit(
            self.mechanism,
            dimension=self.dimension,
            clip=self.max_update_norm,
            bits=self.bits,
            clients=self.clients,
            survivors=self.survivors,
            noise_multiplier=self._noise(),
            rotation_key=rotation_key,
        )

    def planned(self) -> NoiseShare:
        """Of each client of the cohort."""
        codec = self.codec(bytes(32))
        return NoiseShare(
            mechanism=codec.noise,
            sensitivity_l1=codec.sensitivity_l1,
            sensitivity_l2=codec.sensitivity_l2,
            dimension=codec.length,
            variance=codec.variance,
            survivors=codec.survivors,
            max_update_norm=codec.clip,
        )

    def at_client(self, delta_D: Tensor, layout: Layout, state: PlanState, stream: Seed, rounding: float = 0.0) -> Contribution:
        """Clip; the codec, which the aggregator applies, clips again to the same norm, and adds the share."""
        return replace(super().at_client(delta_D, layout, state, stream, rounding), event=self.planned())
