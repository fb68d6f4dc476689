"""SHELF of plans: who is protected from whom, and by how much. The file's name is its name in a configuration.

======================  =========  ===============================  ==================================================
plan                    unit       protected from                   where the noise is added
======================  =========  ===============================  ==================================================
``none``                                                            nowhere
``example``             example    external, client, server         by each client, to each step's clipped gradients
``client_central``      client     external, client (see there)     by the server, to the sum of clipped updates
``client_local``        client     external, client, server         by each client, to its clipped update
``client_dpftrl``       client     external, client                 by the server, correlated over rounds
``client_distributed``  client     external, client, server         by each client, a share, inside secure aggregation
======================  =========  ===============================  ==================================================

``client_central`` and ``client_dpftrl`` trust the server.

An item is one module with one class that derives from :class:`PlanSettings`, or from :class:`PromiseSettings` if it promises
something: the settings, the rules about them and about cohort and aggregator, and the words for the privacy card. It makes a
:class:`Plan`: one frozen object that training and accounting both read. A plan of one's own spends the events of
:mod:`privfl.privacy.events`, which are what a ledger can hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import PositiveFloat, model_validator
from torch import Tensor

from privfl.adversaries import Adversary
from privfl.config import ExperimentConfig, PlanConfig
from privfl.errors import PrivacyError
from privfl.privacy.distributed import DistributedCodec
from privfl.privacy.events import CohortSum, Event, LocalTraining, Unit
from privfl.privacy.gaussian import Randomness
from privfl.privacy.ledger import Account
from privfl.privacy.mechanisms import Relation
from privfl.seeding import Seed
from privfl.tables import Delta, Size, contradiction
from privfl.vectors import Layout

PlanState = dict[str, Tensor]
"""The tensors that a plan carries from round to round, by name; a run is resumed from them."""


@dataclass(frozen=True)
class Federation:
    """The facts that a plan needs and a configuration does not have.

    Args:
        clients: K, how many clients there are.
        largest_cohort: the most clients in one round.
        dimension: D, the length of an update.
    """

    clients: int
    largest_cohort: int
    dimension: int


@dataclass(frozen=True)
class Contribution:
    """A client's message, a vector of the plan's :meth:`Plan.wire`. ``within``: whether the update was within the norm, a fact
    of the simulation; ``event``: what the plan itself spent on it.
    """

    delta_D: Tensor
    within: bool
    event: Event | None


@dataclass(frozen=True)
class WeightedSum:
    """The sum of a cohort's contributions, as long as they are, in float64, zeros if nobody came; of their weights; and the
    aggregator's mean of them, None if there is none.
    """

    sum_D: Tensor
    weight: float
    mean_D: Tensor | None = None


@dataclass(frozen=True)
class Release:
    """The server's result of a round: the mean update, the plan's next state, and the event that the server spent.

    ``mean_D`` is None if there is none, so that the model stays as it is.
    """

    mean_D: Tensor | None
    state: PlanState
    event: Event | None


@dataclass(frozen=True)
class PlanWords:
    """A plan's sentences for the privacy card.

    Args:
        noise: where clipping and noise are applied; ``{clip}`` and ``{noise}`` stand for norm and noise multiplier.
        public: the facts that the promise takes to be public.
    """

    noise: str
    public: str


class Plan(ABC):
    """The contract of plans. The defaults are those of a plan that leaves updates and their mean as they are.

    Fields, beside those of each plan:

    ``noise_multiplier``: standard deviation of the noise over the clipping norm; None until it is calibrated.
    ``delta``: the δ at which ε is stated. ``budget``: ε may not exceed this; None: no limit. ``randomness``: the source of
    the noise.
    """

    noise_multiplier: float | None
    delta: float
    budget: float | None
    randomness: Randomness

    promises: ClassVar[bool] = True
    """Whether there is an ε at all."""

    clips_updates: ClassVar[bool] = False
    """Whether :meth:`at_client` clips a whole update, so that one that is not finite counts as zero and ends no run."""

    # --- the promise ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def unit(self) -> Unit:
        """The unit that one row of protection is about."""

    @property
    @abstractmethod
    def relation(self) -> Relation:
        """The difference between two neighbouring federations."""

    @property
    @abstractmethod
    def adversaries(self) -> tuple[Adversary, ...]:
        """The adversaries that ε holds against."""

    @property
    @abstractmethod
    def clip(self) -> float:
        """C, the L2 norm that one unit's contribution is clipped to."""

    @property
    def trusts_server(self) -> bool:
        """Whether the noise is the server's to add: then who takes part, and how many, must show in nothing else."""
        return False

    @property
    def minimum_clients(self) -> int:
        """The smallest cohort that is asked, if the server is not trusted."""
        return 1

    @property
    def attack_relation(self) -> Relation:
        """The difference between two runs of which one trained on a certain example: for a client, in its update."""
        return self.relation if self.unit == "example" else "replace_one"

    # --- the price -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def planned(self, size: int) -> Event:
        """The event that a round will spend: of everybody if the server is trusted, else of each client of the cohort.

        Args:
            size: N ≥ 1, the examples that the client owns; of no effect if the unit is the client.
        """

    def accounts(self, cohort: Sequence[int]) -> tuple[Account, ...]:
        """The accounts that a round with that cohort is charged to."""
        return ("everybody",) if self.trusts_server else tuple(cohort)

    @abstractmethod
    def calibrated(self, noise_multiplier: float) -> Self:
        """The same plan with its noise fixed."""

    def candidate(self, noise_multiplier: float) -> Self:
        """The plan that a calibration prices at this noise; it costs what :meth:`calibrated` costs."""
        return self.calibrated(noise_multiplier)

    @property
    def calibration_hint(self) -> str:
        """A further way out if no noise keeps the target."""
        return ""

    @property
    def accounted_sampler(self) -> str:
        """The sampling that is accounted."""
        return "none"

    @property
    def executed_noise(self) -> float:
        """Standard deviation over the norm of the noise that is really drawn."""
        assert self.noise_multiplier is not None, "the plan was not calibrated"
        return self.noise_multiplier

    def extrapolated(self) -> CohortSum | None:
        """The event of a round in the larger federation that the run stands for; None if it stands for itself."""
        return None

    def as_if_poisson(self) -> Plan | None:
        """The plan with Poisson batches, whose price is shown beside its own without any guarantee; None if it has them."""
        return None

    def without_terms(self) -> Plan:
        """The plan without δ and budget, which move no message: a part of the name of a run's noise."""
        # Every plan but `none` is a frozen dataclass with these fields.
        return replace(self, budget=None, delta=0.5)  # type: ignore[type-var]

    # --- a round -------------------------------------------------------------------------------------------------------

    @property
    def dp_sgd(self) -> DpSgdPlan | None:
        """The plan by which an engine clips and noises each example's gradient; None: plain training."""
        return None

    def initial(self, device: torch.device) -> PlanState:  # noqa: ARG002
        """The state before the first round."""
        return {}

    def for_clients(self, state: PlanState) -> PlanState:  # noqa: ARG002
        """The part of the state that a client is told; on the CPU, as it may go to another process, whose GPU is another."""
        return {}

    @property
    def entry(self) -> float | None:
        """The size of an entry that every client adds to its update, and that must arrive as it is; None: there is none."""
        return None

    def wire(self, layout: Layout) -> Layout:
        """Names and shapes of a client's message: the update, and the count beside it."""
        return layout if self.entry is None else layout.followed_by("count")

    def seen(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """The server's view of vectors on the wire, by name, as one of updates of length D and of the count."""
        if self.entry is None:
            return seen
        apart = {"sum_D": "count", "updates_KD": "counts_K"}
        found = {name: value[..., :-1] if name in apart else value for name, value in seen.items()}
        return found | {apart[name]: value[..., -1] for name, value in seen.items() if name in apart}

    def weight(self, size: int, largest: int) -> float:
        """A client's weight in the mean, in (0, 1], which a secure sum can bound.

        By public size (McMahan 2017: by the number of examples), as a share of the largest client's.
        """
        return size / largest

    def codec(self, rotation_key: bytes) -> DistributedCodec | None:  # noqa: ARG002
        """The encoding by which clients add noise inside a secure sum; None: they encode as the aggregator does.

        Args:
            rotation_key: 32 public bytes, of this round, that no update had a part in.

        Raises:
            ConfigError: so few bits hold no such sum.
        """
        return None

    def require_possible(self, rounding: float, carried: bool) -> None:  # noqa: B027
        """Raise if the noise cannot be drawn, or the encoding takes up what it covers: before anything is trained.

        Args:
            rounding: how far the aggregator's encoding may move an update, in L2.
            carried: whether the sum brings :attr:`entry` as it was handed in.

        Raises:
            ConfigError: names the setting, and says what to change.
        """

    def require_cohorts(self, cohorts: Sequence[Sequence[int]]) -> None:  # noqa: B027
        """Raise unless the cohorts that were drawn are those that the price counts on, as far as one can see.

        Raises:
            PrivacyError: names the round.
        """

    def at_client(
        self,
        delta_D: Tensor,
        layout: Layout,  # noqa: ARG002
        state: PlanState,  # noqa: ARG002
        stream: Seed,  # noqa: ARG002
        rounding: float = 0.0,  # noqa: ARG002
    ) -> Contribution:
        """One client's update -> its message.

        Args:
            delta_D: the update.
            layout: names and shapes of its parts.
            state: the state that the last round left.
            stream: this client's, of this round.
            rounding: how far the aggregator's encoding may move the message, in L2, before the noise is added.
        """
        return Contribution(delta_D, True, None)

    def at_server(
        self,
        total: WeightedSum,
        state: PlanState,
        round_number: int,  # noqa: ARG002
        stream: Seed,  # noqa: ARG002
    ) -> Release:
        """Sum of the cohort's contributions -> mean update.

        Args:
            total: the aggregator's result. The server goes by nothing else.
            state: the state that the last round left.
            round_number: from 0.
            stream: of this round and the server alone.
        """
        return Release(total.mean_D, state, None)

    def clipped_share(self, trained: Sequence[float], within: Sequence[bool]) -> float | None:  # noqa: ARG002
        """The share of gradients or updates that were longer than the norm; None if nothing is clipped, or nobody came.

        Args:
            trained: each client's share of clipped gradients.
            within: whether each client's update was within the norm.
        """
        return None


class DpSgdPlan(Plan):
    """A plan that clips and noises each example's gradient in local training, which is all that it does.

    ``max_grad_norm``: the L2 norm to which a gradient is clipped. ``scheme``: the whole gradient at once, or each of L
    layers to ``max_grad_norm``/√L.
    """

    max_grad_norm: float
    scheme: Literal["flat", "per_layer"]

    @property
    def clip(self) -> float:
        """C, the L2 norm that one unit's contribution is clipped to."""
        return self.max_grad_norm

    @property
    def dp_sgd(self) -> DpSgdPlan:
        """Itself."""
        return self

    @abstractmethod
    def planned(self, size: int) -> LocalTraining:
        """The local training of a client of that size in one round."""

    def clipped_share(self, trained: Sequence[float], within: Sequence[bool]) -> float | None:  # noqa: ARG002
        """The mean over the clients."""
        return sum(trained) / len(trained) if trained else None


class PlanSettings(PlanConfig, ABC):
    """The contract of this shelf."""

    @abstractmethod
    def plan(self, config: ExperimentConfig, federation: Federation) -> Plan:
        """The plan that these settings describe; not yet calibrated if a target ε is given.

        Args:
            config: the whole configuration: sampling, cohort and aggregator are part of what is promised.
            federation: the facts that are not in it.
        """

    @abstractmethod
    def words(self, sampler: str) -> PlanWords:
        """The plan's words for the privacy card.

        Args:
            sampler: the sampling that was accounted.
        """


class PromiseSettings(PlanSettings):
    """The settings of every plan that promises something.

    Exactly one of ``noise_multiplier`` and ``target_epsilon``. ``max_epsilon`` is the budget: no round begins that
    would exceed it. It is ``target_epsilon`` unless it is given. ``randomness``: from the run's seed, so that the run
    can be repeated, or from the operating system.
    """

    # A shorter run, or one that its budget ends, is the beginning of a longer one. The noise itself shows in the plan.
    unnamed: ClassVar[frozenset[str]] = frozenset({"max_epsilon", "delta", "noise_multiplier", "target_epsilon"})

    noise_multiplier: Size | None = None
    target_epsilon: PositiveFloat | None = None
    max_epsilon: PositiveFloat | None = None
    delta: Delta
    randomness: Randomness = "seeded"

    @model_validator(mode="after")
    def _one_noise(self) -> Self:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise contradiction(
                "noise_multiplier",
                self.noise_multiplier,
                "give exactly one of noise_multiplier and target_epsilon (`KEY=` on the command line removes one)",
            )
        return self

    @property
    def budget(self) -> float | None:
        """The ε that no client may exceed; None if none was set."""
        return self.max_epsilon if self.max_epsilon is not None else self.target_epsilon


def require_planned(done: Event | None, planned: Event | None, whose: str) -> None:
    """Raise unless what was done is what was planned. The norm may adapt; the noise is relative to it.

    Raises:
        PrivacyError: it is not.
    """
    same = done.but_for_norm() == planned.but_for_norm() if done is not None and planned is not None else done is planned
    if not same:
        raise PrivacyError(f"{whose}: {done} was done, but {planned} was planned; nothing was sent")
