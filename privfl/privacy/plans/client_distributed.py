"""Distributed DP plan: each client adds a share of integer noise inside secure aggregation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, PrivacyError
from privfl.privacy import renyi
from privfl.privacy.client_plans import PUBLIC_COHORT, ClientSettings, PublicCohortPlan
from privfl.privacy.distributed import DistributedCodec
from privfl.privacy.events import NoiseShare
from privfl.privacy.plans import Contribution, Federation, PlanState, PlanWords
from privfl.seeding import Seed
from privfl.tables import contradiction
from privfl.vectors import Layout


@dataclass(frozen=True)
class DistributedPlan(PublicCohortPlan):
    """Distributed DP plan: each client adds a share of integer noise to its clipped update, inside secure aggregation.

    **Guarantees.** For each client, the sums that hold its update, and so all global models, are (ε, δ)-indistinguishable
    between a run with its updates and a run in which they are zero. This holds against every adversary that sees sums alone,
    the server included, if at least ``survivors`` honest clients add their share to every sum that is revealed. Shares are
    sized for that number: a lost client takes its share with it, and the shares of the others still suffice. A smaller
    cohort is not asked to train. Who takes part is public and earns no amplification.

    Edges: those of :class:`privfl.privacy.distributed.DistributedCodec`, but a non-finite update becomes zero.

    Args:
        mechanism: the distribution of a share of noise.
        bits: number of bits of a word on the wire.
        survivors: the smallest number of honest clients whose shares are in a sum.
        dimension: D, the length of an update.
        clients: the largest number of clients in a sum.
    """

    mechanism: Literal["skellam", "discrete_gaussian"]
    bits: int
    survivors: int
    dimension: int
    clients: int

    @property
    def minimum_clients(self) -> int:
        """The smallest number of honest survivors."""
        return self.survivors

    def codec(self, rotation_key: bytes) -> DistributedCodec:
        """The codec of one round, made with a public rotation key that is independent of all updates.

        Raises:
            ConfigError: the bits are too few for such a sum.
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

    def planned(self, size: int = 0) -> NoiseShare:  # noqa: ARG002
        """The share of noise that each client of the cohort spends."""
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
        """One client's clipped update; the aggregator's codec clips again to the same norm and adds the share of noise."""
        return replace(super().at_client(delta_D, layout, state, stream, rounding), event=self.planned())

    @property
    def calibration_hint(self) -> str:
        """Advice to raise the number of bits."""
        return f", or more privacy.bits: with {self.bits} rounding may be all that is seen"

    def require_possible(self, rounding: float, carried: bool) -> None:
        """See :class:`Plan`."""
        event = self.planned()
        if event.mechanism == "discrete_gaussian":
            try:
                renyi.tau(event.variance, event.survivors)
            except PrivacyError:
                raise ConfigError(
                    f"privacy.noise_multiplier = {self.noise_multiplier:g}: a share of discrete Gaussian noise has variance "
                    f"{event.variance:.3g} on the grid, must be at least 0.25; raise it or privacy.bits, or set 'skellam'"
                ) from None
        super().require_possible(rounding, carried)


class ClientDistributed(ClientSettings):
    """Each client adds a share of integer noise inside secure aggregation (Kairouz 2021, Agarwal 2021).

    ``survivors``: the smallest number of honest clients whose noise is in a sum; shares are sized for it. ``bits``: number
    of bits of a word on the wire.
    """

    prices_sum: ClassVar[bool] = True

    mechanism: Literal["skellam", "discrete_gaussian"] = "skellam"
    bits: Literal[16, 20, 24, 32] = 16
    survivors: PositiveInt

    def check(self, config: ExperimentConfig) -> None:
        """See :class:`PlanSettings`."""
        if not getattr(config.aggregator, "hides_updates", False):
            raise contradiction(
                "aggregator.kind",
                config.aggregator.kind,
                "a share of noise protects only inside a secure sum; set aggregator.kind = 'secure_sum', "
                "or privacy.kind = 'client_local'",
            )
        super().check(config)

    def check_clients(self, config: ExperimentConfig, clients: int) -> None:
        """Require that enough honest clients survive for the noise, and δ < 1/N."""
        size = config.cohort.expected(clients)
        corrupt, lost = getattr(config.aggregator, "allowed", lambda _: (0, 0))(size)
        if (needed := self.survivors + corrupt) > size - lost:
            allowed = (
                f"with {corrupt} corrupt clients needs {needed} in the sum, but of a cohort of {size} aggregator.max_dropout "
                f"lets {lost} be lost; lower it or privacy.survivors, or enlarge the cohort"
            )
            raise contradiction("privacy.survivors", self.survivors, allowed)
        super().check_clients(config, clients)

    def plan(self, config: ExperimentConfig, federation: Federation) -> DistributedPlan:  # noqa: ARG002
        """See :class:`PlanSettings`."""
        return DistributedPlan(
            **self.shared(),
            mechanism=self.mechanism,
            bits=self.bits,
            survivors=self.survivors,
            dimension=federation.dimension,
            clients=max(federation.largest_cohort, self.survivors),
        )

    def words(self, sampler: str) -> PlanWords:  # noqa: ARG002
        """See :class:`PlanSettings`."""
        return PlanWords(
            noise="Each client clips its whole update to L2 norm {clip} and adds a share of integer noise, inside "
            "secure aggregation. The shares that are certain to be added have standard deviation {noise} × {clip} together.",
            public=PUBLIC_COHORT,
        )
