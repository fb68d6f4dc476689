"""Plans that protect whole clients: the update is clipped as one, and noise is added to it or to sums of it.

The contract is :class:`ClientPlan`: what a client does to its update before it hands it in, and what the server does to
the sum before anything is made of it. Weights are uniform, denominators depend on nobody's coming or data. The plans here
trust the server with the noise; those that do not are in :mod:`privfl.privacy.own_noise_plans`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from privfl.adversaries import Adversary
from privfl.config import AdaptiveClipping
from privfl.errors import ConfigError, PrivacyError
from privfl.privacy.clipping import clip_update
from privfl.privacy.draws import Randomness, gaussian, noised, require_noise
from privfl.privacy.events import CohortSum, CorrelatedSum, Event, Unit
from privfl.privacy.factorization import BandedToeplitz, BinaryTree, Factorization, Participation
from privfl.privacy.mechanisms import Relation
from privfl.seeding import Seed
from privfl.vectors import Layout

PlanState = dict[str, Tensor]
"""What a plan carries from round to round, by name; a run is resumed from it."""

_FEWEST_COUNTED = 20
"""The count's noise is the cohort over this (Andrew 2021, section 3.1)."""

_COUNTED = 0.5
"""What a client adds to the count, or takes from it: b_k − 1/2, so that it moves it by no more (Andrew 2021, section 3.1)."""


@dataclass(frozen=True)
class Contribution:
    """What one client hands in: a vector of the plan's :meth:`ClientPlan.wire`. ``within``: whether the update was within the
    norm, a fact of the simulation; ``event``: what it spent itself.
    """

    delta_D: Tensor
    within: bool
    event: Event | None


@dataclass(frozen=True)
class Total:
    """The sum of a cohort's contributions, as long as they are, in float64, zeros where nobody came; and of their weights."""

    sum_D: Tensor
    weight: float


@dataclass(frozen=True)
class Release:
    """What the server makes of a sum: the mean update, the plan's next state, and what it spent."""

    mean_D: Tensor
    state: PlanState
    event: Event | None


@dataclass(frozen=True)
class ClientPlan(ABC):
    """The contract of the client-level plans.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm; None until it is calibrated.
        max_update_norm: C, the L2 norm that a client's whole update is clipped to.
        delta: the δ at which ε is stated.
        budget: ε may not exceed this; None: no limit.
        scheme: the whole update at once, or layer by layer.
        randomness: where the noise comes from.
    """

    noise_multiplier: float | None
    max_update_norm: float
    delta: float
    budget: float | None
    scheme: Literal["flat", "per_layer"]
    randomness: Randomness

    unit: ClassVar[Unit] = "client"

    @property
    def clip(self) -> float:
        """C, the L2 norm that one unit's contribution is clipped to."""
        return self.max_update_norm

    @property
    @abstractmethod
    def relation(self) -> Relation:
        """What two neighbouring federations differ in."""

    @property
    @abstractmethod
    def adversaries(self) -> tuple[Adversary, ...]:
        """Whom ε holds against."""

    @property
    @abstractmethod
    def trusts_server(self) -> bool:
        """Whether the noise is the server's to add: then who takes part, and how many, must show in nothing else."""

    @property
    def minimum_clients(self) -> int:
        """A smaller cohort is not asked, where the server is not trusted."""
        return 1

    @abstractmethod
    def planned(self) -> Event:
        """What a round will spend: of everybody where the server is trusted, else of each client of the cohort."""

    def initial(self, device: torch.device) -> PlanState:  # noqa: ARG002
        """The state before the first round."""
        return {}

    def for_clients(self, state: PlanState) -> PlanState:
        """What of the state a client is told; on the CPU, as it may go to another process, whose GPU is another."""
        return {name: value.cpu() for name, value in state.items() if name == "norm"}

    @property
    def entry(self) -> float | None:
        """A size that every client hands in beside its update, and that must arrive as it is; None where there is none."""
        return None

    def wire(self, layout: Layout) -> Layout:
        """What a client hands in, as names and shapes: the update, and what is counted beside it."""
        return layout if self.entry is None else layout.followed_by("count")

    def seen(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the server saw of vectors on the wire, by name, as what it saw of updates of length D and of the count."""
        if self.entry is None:
            return seen
        apart = {"sum_D": "count", "updates_KD": "counts_K"}
        found = {name: value[..., :-1] if name in apart else value for name, value in seen.items()}
        return found | {apart[name]: value[..., -1] for name, value in seen.items() if name in apart}

    def at_client(
        self,
        delta_D: Tensor,
        layout: Layout,
        state: PlanState,
        stream: Seed,  # noqa: ARG002
        rounding: float = 0.0,
    ) -> Contribution:
        """Clip one client's update.

        **Guarantees.** The result's L2 norm is at most C less ``rounding``, whatever the update; one that is not finite is a
        zero.

        Args:
            delta_D: the update.
            layout: names and shapes of its parts.
            state: what the last round left.
            stream: this client's, of this round.
            rounding: how far the aggregator's encoding may move what is handed in, in L2, before the noise is added.

        Raises:
            PrivacyError: the encoding alone moves an update by more than C.
        """
        norm = self._norm(state) - rounding
        if norm <= 0:
            raise PrivacyError(
                f"the encoding of the secure sum may move an update by {rounding:g}, all of the norm {self._norm(state):g} "
                "that the noise covers; allow more aggregator.bits, or a smaller aggregator.clip"
            )
        clipped = clip_update(delta_D, norm, layout, self.scheme)
        return Contribution(clipped.delta_D, clipped.within, None)

    @abstractmethod
    def at_server(self, total: Total, state: PlanState, round_number: int, stream: Seed) -> Release:
        """Sum of the cohort's contributions -> mean update.

        Args:
            total: what the aggregator gave. It is all that the server goes by.
            state: what the last round left.
            round_number: from 0.
            stream: of this round and the server alone.
        """

    def calibrated(self, noise_multiplier: float) -> Self:
        """The same plan with its noise fixed."""
        return replace(self, noise_multiplier=noise_multiplier)

    def _norm(self, state: PlanState) -> float:
        """C of this round."""
        return float(state["norm"]) if "norm" in state else self.max_update_norm

    def _noise(self) -> float:
        assert self.noise_multiplier is not None, "the plan was not calibrated"
        return self.noise_multiplier


@dataclass(frozen=True)
class Imagined:
    """The larger federation that a run stands for: ``cohort`` of ``population`` clients a round."""

    population: int
    cohort: int


@dataclass(frozen=True)
class CentralPlan(ClientPlan):
    """DP-FedAvg (McMahan et al. 2018, algorithm 1; Andrew et al. 2021 where the norm adapts).

    A round releases (Σ clip(Δ_k, C) + N(0, z²C² I)) / m over the cohort, with m = qN fixed. Nothing else depends on who
    came: an empty cohort is a round like any other, weights are uniform, a client that drops out takes no noise with it.
    Where the norm adapts, whether an update was within it travels as one more entry of the vector that is summed, so that
    the server has the count of those whose updates it has, and no other.

    **Guarantees.** All global models together are (ε, δ)-indistinguishable when one client is in the federation or is not
    (``poisson``, ``all``), or is another (``fixed``). The server is trusted: it draws the noise, knows the cohort and
    sees the sums, so that ε says nothing against it.

    **Who took part must stay secret**, for the price counts on it. An adversary that sees the final model or all global
    models does not learn it. A client that takes part in a secure sum does: the roster of keys names the others of its
    cohort. With such an aggregator the promise is to ``external`` alone, unless everybody takes part every time, which is
    no secret and earns no amplification.

    With an imagined population the noise is ``noise_multiplier`` times C times executed over imagined cohort: what the
    mean over an imagined cohort would bear. The ledger holds the executed noise.

    ==========================  ======================================================================================
    edge                        what happens
    ==========================  ======================================================================================
    empty cohort                noise alone is divided by m, stepped along and counted
    one client                  as any; the noise is what hides it
    zero or non-finite update   contributes zero
    ==========================  ======================================================================================

    Args:
        sampler, population, size: how cohorts are drawn: on average or exactly ``size`` of ``population``.
        names_cohort: whether the aggregator shows the clients of a cohort who the others are.
        adaptive: how the norm adapts, where it does; ``max_update_norm`` is then where it begins.
        imagined: the federation that the noise was chosen for, where it is not this one.
    """

    sampler: Literal["poisson", "fixed", "all"]
    population: int
    size: int
    names_cohort: bool
    adaptive: AdaptiveClipping | None = None
    imagined: Imagined | None = None

    trusts_server: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.noise_multiplier is not None and self.adaptive is not None and self.noise_multiplier >= 2 * self._wide_count:
            raise ConfigError(
                f"privacy.noise_multiplier = {self.noise_multiplier:g}: the count of an adaptive norm alone spends more; "
                f"must be below {2 * self._wide_count:g}, a tenth of the cohort: allow a larger ε or cohort, or clip 'flat'"
            )

    @property
    def relation(self) -> Relation:
        """A sample of fixed size knows replacement only."""
        return "replace_one" if self.sampler == "fixed" else "add_or_remove_one"

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """Other clients too, where they cannot tell who else took part, or where that is no secret."""
        return ("external",) if self.names_cohort and self.sampler != "all" else ("external", "client")

    @property
    def scale(self) -> float:
        """Executed over imagined cohort; 1 where nothing is imagined."""
        return self.size / self.imagined.cohort if self.imagined is not None else 1.0

    @property
    def _wide_count(self) -> float:
        """σ_b of the cohort that the noise is chosen for."""
        return (self.imagined.cohort if self.imagined is not None else self.size) / _FEWEST_COUNTED

    def planned(self) -> CohortSum:
        """With the norm that the first round has."""
        return self._event(self.max_update_norm)

    def extrapolated(self) -> CohortSum:
        """What a round of the imagined population would spend."""
        assert self.imagined is not None
        wide = replace(self, population=self.imagined.population, size=self.imagined.cohort, imagined=None)
        return wide.planned()

    def initial(self, device: torch.device) -> PlanState:
        """The norm, where it adapts."""
        if self.adaptive is None:
            return {}
        return {"norm": torch.tensor(self.max_update_norm, dtype=torch.float64, device=device)}

    @property
    def entry(self) -> float | None:
        """A half, where the norm adapts."""
        return None if self.adaptive is None else _COUNTED

    def at_client(self, delta_D: Tensor, layout: Layout, state: PlanState, stream: Seed, rounding: float = 0.0) -> Contribution:
        """Clip; where the norm adapts, say whether that was needed."""
        clipped = super().at_client(delta_D, layout, state, stream, rounding)
        if self.entry is None:
            return clipped
        counted = clipped.delta_D.new_tensor([self.entry if clipped.within else -self.entry])
        return replace(clipped, delta_D=torch.cat([clipped.delta_D, counted]))

    def at_server(
        self,
        total: Total,
        state: PlanState,
        round_number: int,  # noqa: ARG002
        stream: Seed,
    ) -> Release:
        """See :class:`ClientPlan`."""
        norm, sum_D = self._norm(state), total.sum_D if self.entry is None else total.sum_D[:-1]
        event = self._event(norm)
        noised_D = noised(sum_D, self._update_noise() * self.scale, norm, stream / "noise", self.randomness)
        require_noise(noised_D - sum_D, event.noise_multiplier * event.max_update_norm)
        return Release((noised_D / event.denominator).float(), self._adapted(total.sum_D[-1:], state, stream), event)

    def _adapted(self, count_1: Tensor, state: PlanState, stream: Seed) -> PlanState:
        if self.adaptive is None:
            return state
        # What one client adds is the clipping norm here.
        multiplier = self._wide_count / _COUNTED * self.scale
        noisy = noised(count_1, multiplier, _COUNTED, stream / "count", self.randomness)[0]
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
            count_noise=self._wide_count * self.scale if self.adaptive is not None else None,
        )

    def _update_noise(self) -> float:
        """z_Δ: the sum's own share of the noise, larger than z where a count is released beside it."""
        if self.adaptive is None:
            return self._noise()
        # z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2)
        return float((self._noise() ** -2 - (2 * self._wide_count) ** -2) ** -0.5)


@dataclass(frozen=True)
class DpftrlPlan(ClientPlan):
    """DP-FTRL: a trusted server adds noise that is correlated over rounds (Kairouz et al. 2021; Choquette-Choo et al. 2023).

    Round t releases (Σ clip(Δ_k, C) + (C_s⁻¹ z)_t) / m, with C_s the strategy, z of independent rows N(0, z²C² I) and m the
    size of every cohort. The noise of earlier rounds is taken back in part, so that sums over rounds bear less of it.

    **Guarantees.** All global models together are (ε, δ)-indistinguishable when one client's updates are there or are
    zero, to other clients and to whoever has the final model. Nothing is gained from sampling: who takes part is public,
    and the whole run is one Gaussian release with the sensitivity of a client that takes part at most every
    ``separation`` rounds, which the sampler of cohorts sees to. The server is trusted.

    Edges: every cohort has its size; a zero or non-finite update contributes zero. A run that ends early has spent as much
    as the whole of it. Noise is seeded only: correlated rows are no integers on a grid.

    Args:
        factorization: ``tree``, or ``banded`` Toeplitz with ``bands`` diagonals, of least error.
        bands: at most ``separation``.
        rounds: of the whole run.
        separation: no client takes part twice within so many rounds in a row.
        size: of every cohort.
    """

    factorization: Literal["tree", "banded"]
    bands: int
    rounds: int
    separation: int
    size: int

    trusts_server: ClassVar[bool] = True

    @property
    def relation(self) -> Relation:
        """A client's updates are there, or are zero; it takes part all the same."""
        return "add_or_remove_one"

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """All but the server."""
        return ("external", "client")

    def strategy(self) -> Factorization:
        """C_s, and its noise row by row."""
        return _strategy(self.factorization, self.rounds, self.bands)

    def planned(self) -> CorrelatedSum:
        """Of every round."""
        participation = Participation(self.separation, -(-self.rounds // self.separation))
        return CorrelatedSum(
            factorization=self.factorization,
            rounds=self.rounds,
            separation=self.separation,
            sensitivity=_sensitivity(self.strategy(), participation),
            noise_multiplier=self._noise(),
            max_update_norm=self.max_update_norm,
            denominator=self.size,
        )

    def at_server(
        self,
        total: Total,
        state: PlanState,
        round_number: int,
        stream: Seed,
    ) -> Release:
        """See :class:`ClientPlan`."""
        event, strategy = self.planned(), self.strategy()
        fresh_D = gaussian(len(total.sum_D), self._noise() * self.max_update_norm, stream / "noise", total.sum_D.device)
        require_noise(fresh_D, event.noise_multiplier * event.max_update_norm)
        rows_MD = state["rows_MD"].cpu().numpy().copy() if state else strategy.start(len(fresh_D))
        row_D = torch.from_numpy(strategy.advance(rows_MD, round_number, fresh_D.cpu().numpy())).to(fresh_D.device)
        mean_D = (total.sum_D + row_D) / event.denominator
        return Release(mean_D.float(), {"rows_MD": torch.from_numpy(rows_MD)}, event)


@functools.lru_cache(maxsize=16)
def _strategy(factorization: str, rounds: int, bands: int) -> Factorization:
    return BinaryTree(rounds) if factorization == "tree" else BandedToeplitz.optimised(rounds, min(bands, rounds))


@functools.lru_cache(maxsize=16)
def _sensitivity(strategy: Factorization, participation: Participation) -> float:
    """Every round asks for that of the whole run, which goes through all of its rounds."""
    return strategy.sensitivity(participation)
