"""DP-FedAvg plan: a trusted server adds noise to the sum of a secret cohort's clipped updates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from privfl.adversaries import Adversary
from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.privacy.client_plans import ClientPlan, ClientSettings
from privfl.privacy.cohorts import CohortSampler
from privfl.privacy.events import CohortSum
from privfl.privacy.gaussian import noised, require_noise
from privfl.privacy.mechanisms import Relation
from privfl.privacy.plans import Contribution, Federation, PlanState, PlanWords, Release, WeightedSum
from privfl.privacy.plans._clipping import AdaptiveClipping
from privfl.seeding import Seed
from privfl.tables import Frozen, contradiction, narrow
from privfl.vectors import Layout

_COUNT_NOISE_DIVISOR = 20
"""The standard deviation of the noise on the count is the cohort over this (Andrew 2021, section 3.1)."""

_COUNT_ENTRY = 0.5
"""Largest absolute entry of a client in the count, which is b_k − 1/2 (Andrew 2021, section 3.1)."""


@dataclass(frozen=True)
class Imagined:
    """A larger, imagined federation with ``cohort`` of ``population`` clients in each round."""

    population: int
    cohort: int


@dataclass(frozen=True)
class CentralPlan(ClientPlan):
    """DP-FedAvg plan (McMahan et al. 2018, algorithm 1; with an adaptive norm Andrew et al. 2021).

    A round releases (Σ clip(Δ_k, C) + N(0, z²C² I)) / m over the cohort, with m = qN fixed. Nothing else depends on who
    came: an empty cohort is a round like any other, weights are uniform, and a client that drops out takes no noise with it.
    If the norm adapts, each client reports whether its update was within the norm by one more entry of the vector that is
    summed. The server thus learns the count of the clients whose updates it has, and no other count.

    **Guarantees.** All global models together are (ε, δ)-indistinguishable between two federations that differ in one client:
    it is present or absent (``poisson``, ``all``), or is another client (``fixed``). The server is trusted: it draws the
    noise, knows the cohort and sees the sums, so ε does not hold against it.

    **Who took part must stay secret**, because the price assumes it. An adversary that sees the final model or all global
    models does not learn who took part. A client in a secure sum does, because the roster of keys names the other clients of
    its cohort. With such an aggregator the guarantee holds against ``external`` alone, unless all clients take part in every
    round, which is no secret and earns no amplification.

    With an imagined population the noise is ``noise_multiplier`` times C times the ratio of executed to imagined cohort, so
    the mean has the noise of a mean over an imagined cohort. The ledger holds the executed noise.

    ==========================  ======================================================================================
    edge                        result
    ==========================  ======================================================================================
    empty cohort                noise alone is divided by m, applied to the model and recorded in the ledger
    one client                  a round like any other; the noise hides the client
    zero or non-finite update   contributes zero
    ==========================  ======================================================================================

    Args:
        sampler, population, size: the sampling of cohorts: on average or exactly ``size`` of ``population`` clients.
        names_cohort: whether the aggregator tells each client of a cohort who the other clients are.
        adaptive: settings of an adaptive norm, which begins at ``max_update_norm``; None: the norm is fixed.
        imagined: the federation for which the noise was chosen; None: this one.
    """

    sampler: Literal["poisson", "fixed", "all"]
    population: int
    size: int
    names_cohort: bool
    adaptive: AdaptiveClipping | None = None
    imagined: Imagined | None = None

    trusts_server: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.noise_multiplier is not None and self.adaptive is not None and self.noise_multiplier >= 2 * self._count_noise:
            raise ConfigError(
                f"privacy.noise_multiplier = {self.noise_multiplier:g}: must be below {2 * self._count_noise:g}, a tenth of "
                "the cohort, since the count of an adaptive norm alone spends more; allow a larger ε or cohort, or clip 'flat'"
            )

    @property
    def relation(self) -> Relation:
        """Replacement of a client if cohorts have a fixed size; else add or remove one."""
        return "replace_one" if self.sampler == "fixed" else "add_or_remove_one"

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """External adversaries; also clients, unless they learn a cohort that should be secret."""
        return ("external",) if self.names_cohort and self.sampler != "all" else ("external", "client")

    @property
    def scale(self) -> float:
        """Ratio of executed to imagined cohort; 1 if none is imagined."""
        return self.size / self.imagined.cohort if self.imagined is not None else 1.0

    @property
    def accounted_sampler(self) -> str:
        """The sampler of the cohorts."""
        return self.sampler

    @property
    def executed_noise(self) -> float:
        """The noise multiplier that is really drawn; smaller than the chosen one if a larger cohort is imagined."""
        return super().executed_noise * self.scale

    def candidate(self, noise_multiplier: float) -> CentralPlan:
        """The plan with a fixed norm, of the same price: z covers update and count, and every z can then be priced."""
        return replace(self, adaptive=None).calibrated(noise_multiplier)

    @property
    def _count_noise(self) -> float:
        """σ_b, noise on the count, for the cohort for which the noise is chosen."""
        return (self.imagined.cohort if self.imagined is not None else self.size) / _COUNT_NOISE_DIVISOR

    def planned(self, size: int = 0) -> CohortSum:  # noqa: ARG002
        """The event of a round, with the norm of the first round."""
        return self._event(self.max_update_norm)

    def extrapolated(self) -> CohortSum | None:
        """The event of a round in the imagined population; None if none is imagined."""
        if self.imagined is None:
            return None
        wide = replace(self, population=self.imagined.population, size=self.imagined.cohort, imagined=None)
        return wide.planned()

    def initial(self, device: torch.device) -> PlanState:
        """The clipping norm if it adapts; else nothing."""
        if self.adaptive is None:
            return {}
        return {"norm": torch.tensor(self.max_update_norm, dtype=torch.float64, device=device)}

    @property
    def count_entry(self) -> float | None:
        """1/2 if the norm adapts, which is the largest absolute entry of a client in the count; else None."""
        return None if self.adaptive is None else _COUNT_ENTRY

    def at_client(self, delta_D: Tensor, layout: Layout, state: PlanState, stream: Seed, rounding: float = 0.0) -> Contribution:
        """One client's clipped update; if the norm adapts, followed by ±1/2 for within the norm or not."""
        clipped = super().at_client(delta_D, layout, state, stream, rounding)
        if self.count_entry is None:
            return clipped
        counted = clipped.delta_D.new_tensor([self.count_entry if clipped.within else -self.count_entry])
        return replace(clipped, delta_D=torch.cat([clipped.delta_D, counted]))

    def at_server(
        self,
        total: WeightedSum,
        state: PlanState,
        round_number: int,  # noqa: ARG002
        stream: Seed,
    ) -> Release:
        """See :class:`Plan`."""
        norm, sum_D = self._norm(state), total.sum_D if self.count_entry is None else total.sum_D[:-1]
        event = self._event(norm)
        noised_D = noised(sum_D, self._update_noise() * self.scale, norm, stream / "noise", self.randomness)
        require_noise(noised_D - sum_D, event.noise_multiplier * event.max_update_norm)
        return Release((noised_D / event.denominator).float(), self._adapted(total.sum_D[-1:], state, stream), event)

    def _adapted(self, count_1: Tensor, state: PlanState, stream: Seed) -> PlanState:
        if self.adaptive is None:
            return state
        # The clipping norm of the count is the largest absolute entry of one client.
        multiplier = self._count_noise / _COUNT_ENTRY * self.scale
        noisy = noised(count_1, multiplier, _COUNT_ENTRY, stream / "count", self.randomness)[0]
        # b̃ = (Σ (b_k − 1/2) + N(0, σ_b²)) / m + 1/2;  C ← C exp(−η (b̃ − γ))
        share = noisy / self.size + 0.5
        return {"norm": state["norm"] * torch.exp(-self.adaptive.lr * (share - self.adaptive.quantile))}

    def _event(self, norm: float) -> CohortSum:
        return CohortSum(
            sampler=self.sampler,
            population=self.population,
            size=self.size,
            noise_multiplier=self._update_noise() * self.scale,
            max_update_norm=norm,
            denominator=self.size,
            count_noise=self._count_noise * self.scale if self.adaptive is not None else None,
        )

    def _update_noise(self) -> float:
        """z_Δ, noise multiplier of the sum alone; larger than z if a count is released beside it."""
        if self.adaptive is None:
            return self._noise()
        # z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2)
        return float((self._noise() ** -2 - (2 * self._count_noise) ** -2) ** -0.5)


class ImaginedPopulation(Frozen):
    """Settings of a larger, imagined federation: ``cohort`` of ``population`` clients in each round.

    The noise is that of the imagined sum, scaled down to the executed cohort; the ε of the imagined federation holds for
    nobody in the run.
    """

    population: PositiveInt
    cohort: PositiveInt

    @model_validator(mode="after")
    def _cohort_within(self) -> Self:
        if self.cohort > self.population:
            raise contradiction("cohort", self.cohort, f"must be at most imagined.population = {self.population}")
        return self


class ClientCentral(ClientSettings):
    """DP-FedAvg (McMahan 2018): clipped updates, Gaussian noise on their sum by a trusted server, a fixed denominator."""

    secret_cohorts: ClassVar[bool] = True
    prices_sum: ClassVar[bool] = True
    adapts: ClassVar[bool] = True

    imagined: ImaginedPopulation | None = None

    @property
    def budget(self) -> float | None:
        """The largest executed ε allowed; a target ε is about the imagined federation if there is one, and then sets none."""
        return self.max_epsilon if self.imagined is not None else super().budget

    def check(self, config: ExperimentConfig) -> None:
        """See :class:`PlanSettings`."""
        super().check(config)
        cohort = config.cohort
        if getattr(cohort, "accounted", None) is None:
            raise contradiction(
                "cohort.kind", cohort.kind, "'client_central' draws cohorts in secret; set 'poisson', 'fixed' or 'all'"
            )
        if self.imagined is None:
            return
        poisson = getattr(cohort, "accounted", None) == "poisson"
        if not (poisson and cohort.expected(self.imagined.population) <= self.imagined.cohort):
            raise contradiction(
                "privacy.imagined.cohort",
                self.imagined.cohort,
                "must be at least as large as a 'poisson' cohort; set cohort.kind = 'poisson', or lower cohort.size",
            )

    def check_clients(self, config: ExperimentConfig, clients: int) -> None:
        """Require δ < 1/N for the clients, and for the imagined population if there is one."""
        super().check_clients(config, clients)
        if self.imagined is not None and self.delta >= 1 / self.imagined.population:
            wide = self.imagined.population
            raise contradiction("privacy.delta", self.delta, f"must be below 1/{wide}, one over privacy.imagined.population")

    def plan(self, config: ExperimentConfig, federation: Federation) -> CentralPlan:
        """See :class:`PlanSettings`."""
        cohort, clients, imagined = narrow(config.cohort, CohortSampler), federation.clients, self.imagined
        assert cohort.accounted is not None, "check() sees to it"
        size = cohort.expected(clients)
        return CentralPlan(
            **self.shared(),
            sampler="all" if cohort.accounted == "fixed" and size == clients else cohort.accounted,
            population=clients,
            size=size,
            names_cohort=bool(getattr(config.aggregator, "hides_updates", False)),
            adaptive=self.clipping if isinstance(self.clipping, AdaptiveClipping) else None,
            imagined=Imagined(imagined.population, imagined.cohort) if imagined is not None else None,
        )

    def words(self, sampler: str) -> PlanWords:
        """See :class:`PlanSettings`."""
        public = "The number of clients, and the settings of the run. The cohort of each round is not public: keep it secret."
        if sampler == "all":
            public = "The number of clients, that all of them take part in every round, and the settings of the run."
        if self.clipping.kind == "adaptive":
            return PlanWords(
                noise="Each client's whole update is clipped to an L2 norm that begins at {clip}. The server adds Gaussian "
                "noise to their sum and to the count that moves the norm, and divides by a fixed number. Together the two "
                "cost as much as noise of standard deviation {noise} × the norm on the sum alone.",
                public=public,
            )
        return PlanWords(
            noise="Each client's whole update is clipped to L2 norm {clip}. The server adds Gaussian noise of standard "
            "deviation {noise} × {clip} to their sum, and divides by a fixed number.",
            public=public,
        )
