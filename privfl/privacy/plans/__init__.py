"""SHELF of plans: the privacy guarantee of a run, and its clipping and noise. An item's name in a configuration is its file's.

======================  =========  ===============================  ==================================================
plan                    unit       protected from                   noise
======================  =========  ===============================  ==================================================
``none``                                                            none
``example``             example    external, client, server         by each client, to each step's clipped gradients
``client_central``      client     external, client (see there)     by the server, to the sum of clipped updates
``client_local``        client     external, client, server         by each client, to its clipped update
``client_dpftrl``       client     external, client                 by the server, correlated over rounds
``client_distributed``  client     external, client, server         by each client, a share, inside secure aggregation
======================  =========  ===============================  ==================================================

``client_central`` and ``client_dpftrl`` trust the server.

An item is one module with one class that derives from :class:`PlanSettings`, or from :class:`PromiseSettings` if it promises
an ε. The class holds the settings, the rules about them and about cohort and aggregator, and the sentences for the privacy
card. It makes a :class:`Plan`, one frozen object that both training and accounting read. A plan of your own must spend events
of :mod:`privfl.privacy.events`, since a ledger holds no others.
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
    """Facts about the federation that a plan needs and a configuration does not hold.

    Args:
        clients: K, the number of clients.
        largest_cohort: the largest number of clients in one round.
        dimension: D, the length of an update.
        statistics: noise multipliers of the statistics of a single client's examples that were released before the first round.
    """

    clients: int
    largest_cohort: int
    dimension: int
    statistics: tuple[float, ...] = ()


@dataclass(frozen=True)
class Contribution:
    """A client's message of one round, and facts about it.

    Args:
        delta_D: the message, a vector in the layout of :meth:`Plan.message_layout`.
        within: whether the update was within the norm; known to the simulation only.
        event: the event that the plan spent on it; None if it spent none.
    """

    delta_D: Tensor
    within: bool
    event: Event | None


@dataclass(frozen=True)
class WeightedSum:
    """The aggregator's result for a cohort: sums of contributions and weights, and their mean.

    Args:
        sum_D: the sum of the contributions, of their length, float64; zeros if nobody came.
        weight: the sum of their weights.
        mean_D: the aggregator's mean; None if there is none.
    """

    sum_D: Tensor
    weight: float
    mean_D: Tensor | None = None


@dataclass(frozen=True)
class Release:
    """The server's result of a round.

    Args:
        mean_D: the mean update; None leaves the model as it is.
        state: the plan's next state.
        event: the event that the server spent; None if it spent none.
    """

    mean_D: Tensor | None
    state: PlanState
    event: Event | None


@dataclass(frozen=True)
class PlanWords:
    """A plan's sentences for the privacy card.

    Args:
        noise: how clipping and noise are applied; ``{clip}`` and ``{noise}`` stand for norm and noise multiplier.
        public: the facts that the guarantee assumes to be public.
    """

    noise: str
    public: str


class Plan(ABC):
    """Base class of plans: one privacy guarantee, read by both training and accounting.

    The defaults are those of a plan that leaves updates and their mean as they are.

    Fields of every plan:

    ``noise_multiplier``: standard deviation of the noise over the clipping norm; None until it is calibrated.
    ``delta``: the δ at which ε is stated. ``budget``: the largest ε allowed; None: no limit. ``randomness``: source of the
    noise.
    """

    noise_multiplier: float | None
    delta: float
    budget: float | None
    randomness: Randomness

    statistics: tuple[float, ...] = ()
    """Noise multipliers of Gaussian releases about each unit before the first round (:attr:`Federation.statistics`)."""

    promises: ClassVar[bool] = True
    """Whether the plan guarantees an ε."""

    clips_updates: ClassVar[bool] = False
    """Whether :meth:`at_client` clips a whole update; then a non-finite update counts as zero and does not end the run."""

    # --- the promise ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def unit(self) -> Unit:
        """The unit of privacy."""

    @property
    @abstractmethod
    def relation(self) -> Relation:
        """The neighbouring relation of the guarantee."""

    @property
    @abstractmethod
    def adversaries(self) -> tuple[Adversary, ...]:
        """The adversaries against whom ε holds."""

    @property
    @abstractmethod
    def clip(self) -> float:
        """C, the L2 norm to which one unit's contribution is clipped."""

    @property
    def trusts_server(self) -> bool:
        """Whether the server adds the noise; then nothing else may reveal who takes part, or how many."""
        return False

    @property
    def minimum_clients(self) -> int:
        """The smallest cohort that is asked to train, if the server is not trusted."""
        return 1

    @property
    def attack_relation(self) -> Relation:
        """The relation between two runs that differ in one example; at client level it replaces a client's update."""
        return self.relation if self.unit == "example" else "replace_one"

    # --- the price -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def planned(self, size: int) -> Event:
        """The event that a round will spend: for all clients if the server is trusted, else for each client of the cohort.

        Args:
            size: N ≥ 1, number of examples that the client owns; without effect if the unit is the client.
        """

    def accounts(self, cohort: Sequence[int]) -> tuple[Account, ...]:
        """The accounts to which a round with this cohort is charged."""
        return ("everybody",) if self.trusts_server else tuple(cohort)

    @abstractmethod
    def calibrated(self, noise_multiplier: float) -> Self:
        """The same plan with its noise fixed."""

    def candidate(self, noise_multiplier: float) -> Self:
        """The plan that a calibration prices at this noise; its price is that of :meth:`calibrated`."""
        return self.calibrated(noise_multiplier)

    @property
    def calibration_hint(self) -> str:
        """Further advice for the error if no noise keeps the target ε."""
        return ""

    @property
    def accounted_sampler(self) -> str:
        """The sampler that the price assumes."""
        return "none"

    @property
    def executed_noise(self) -> float:
        """Standard deviation, over the clipping norm, of the noise that is really drawn."""
        assert self.noise_multiplier is not None, "the plan was not calibrated"
        return self.noise_multiplier

    def extrapolated(self) -> CohortSum | None:
        """The event of a round in the larger, imagined federation; None if none is imagined."""
        return None

    def as_if_poisson(self) -> Plan | None:
        """The same plan with Poisson batches, whose ε is shown for comparison, not guaranteed; None if there is none."""
        return None

    def without_terms(self) -> Plan:
        """The plan without δ and budget, which change no message; it is part of the name of a run's noise."""
        # Every plan but `none` is a frozen dataclass with these fields.
        return replace(self, budget=None, delta=0.5)  # type: ignore[type-var]

    # --- a round -------------------------------------------------------------------------------------------------------

    @property
    def dp_sgd(self) -> DpSgdPlan | None:
        """The plan by which an engine clips each example's gradient and adds noise; None: ordinary training."""
        return None

    def initial(self, device: torch.device) -> PlanState:  # noqa: ARG002
        """The state before the first round."""
        return {}

    def for_clients(self, state: PlanState) -> PlanState:  # noqa: ARG002
        """The part of the state that clients are told; on the CPU, because a client may run in a process with another GPU."""
        return {}

    @property
    def count_entry(self) -> float | None:
        """Size of the entry that every client appends to its update, and that must arrive unchanged; None: there is none."""
        return None

    def message_layout(self, layout: Layout) -> Layout:
        """Names and shapes of a client's message: the update, and the count if there is an :attr:`count_entry`."""
        return layout if self.count_entry is None else layout.followed_by("count")

    def seen(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """The server's view of the messages, by name, split into updates of length D and counts."""
        if self.count_entry is None:
            return seen
        apart = {"sum_D": "count", "updates_KD": "counts_K"}
        found = {name: value[..., :-1] if name in apart else value for name, value in seen.items()}
        return found | {apart[name]: value[..., -1] for name, value in seen.items() if name in apart}

    def weight(self, size: int, largest: int) -> float:
        """A client's weight in the mean: its public size over that of the largest client (McMahan 2017).

        It is in (0, 1], so that a secure sum can bound it.
        """
        return size / largest

    def codec(self, rotation_key: bytes) -> DistributedCodec | None:  # noqa: ARG002
        """The codec by which clients add noise inside a secure sum; None: they use the aggregator's encoding.

        Args:
            rotation_key: 32 public bytes of this round, chosen independently of all updates.

        Raises:
            ConfigError: the bits are too few for such a sum.
        """
        return None

    def require_possible(self, rounding: float, carried: bool) -> None:  # noqa: B027
        """Raise, before training, if the noise cannot be drawn or the encoding uses up the norm that the noise covers.

        Args:
            rounding: largest L2 distance by which the aggregator's encoding may move an update.
            carried: whether the sum keeps :attr:`count_entry` unchanged.

        Raises:
            ConfigError: names the setting, and the change to make.
        """

    def require_cohorts(self, cohorts: Sequence[Sequence[int]]) -> None:  # noqa: B027
        """Raise if the cohorts that were drawn visibly break an assumption of the price.

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
        """One client's message, from its update.

        Args:
            delta_D: the update.
            layout: names and shapes of its parts.
            state: the plan's state after the last round.
            stream: random stream of this client and round.
            rounding: largest L2 distance by which the aggregator's encoding may move the message before the noise is added.
        """
        return Contribution(delta_D, True, None)

    def at_server(
        self,
        total: WeightedSum,
        state: PlanState,
        round_number: int,  # noqa: ARG002
        stream: Seed,  # noqa: ARG002
    ) -> Release:
        """The mean update, from the sum of the cohort's contributions.

        Args:
            total: the aggregator's result; the server uses no other data.
            state: the plan's state after the last round.
            round_number: number of the round, from 0.
            stream: random stream of the server and this round.
        """
        return Release(total.mean_D, state, None)

    def clipped_share(self, trained: Sequence[float], within: Sequence[bool]) -> float | None:  # noqa: ARG002
        """The share of gradients or updates that were longer than the norm; None if nothing is clipped or nobody came.

        Args:
            trained: each client's share of clipped gradients.
            within: whether each client's update was within the norm.
        """
        return None


class DpSgdPlan(Plan):
    """Base class of plans whose only protection is DP-SGD in local training.

    ``max_grad_norm``: the L2 norm to which each example's gradient is clipped. ``scheme``: clips the whole gradient at once,
    or each of L layers to ``max_grad_norm``/√L.
    """

    max_grad_norm: float
    scheme: Literal["flat", "per_layer"]

    @property
    def clip(self) -> float:
        """C, the L2 norm to which one unit's contribution is clipped."""
        return self.max_grad_norm

    @property
    def dp_sgd(self) -> DpSgdPlan:
        """This plan itself."""
        return self

    @abstractmethod
    def planned(self, size: int) -> LocalTraining:
        """The local training of a client of this size in one round."""

    def clipped_share(self, trained: Sequence[float], within: Sequence[bool]) -> float | None:  # noqa: ARG002
        """The mean over the clients of their shares of clipped gradients; None if nobody came."""
        return sum(trained) / len(trained) if trained else None


class PlanSettings(PlanConfig, ABC):
    """Base class of this shelf: the settings of a plan, and the plan that they make."""

    @abstractmethod
    def plan(self, config: ExperimentConfig, federation: Federation) -> Plan:
        """The plan of these settings; its noise is not yet calibrated if a target ε is given.

        Args:
            config: the whole configuration, because sampling, cohort and aggregator are part of the guarantee.
            federation: the facts that the configuration does not hold.
        """

    @abstractmethod
    def words(self, sampler: str) -> PlanWords:
        """The plan's sentences for the privacy card.

        Args:
            sampler: the sampler that the price assumes.
        """


class PromiseSettings(PlanSettings):
    """Base class of the settings of plans that promise an ε.

    Exactly one of ``noise_multiplier`` and ``target_epsilon`` is given. ``max_epsilon`` is the budget: no round begins that
    would exceed it; without it the budget is ``target_epsilon``. ``randomness``: noise from the run's seed (``seeded``), so
    that the run can be repeated, or from the operating system (``secure``).
    """

    # A run that is shorter, or ended by its budget, is the beginning of a longer one. The plan itself names the noise.
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
        """The largest ε allowed; None if none was set."""
        return self.max_epsilon if self.max_epsilon is not None else self.target_epsilon


def require_planned(done: Event | None, planned: Event | None, whose: str) -> None:
    """Raise unless the event spent equals the event planned; the norm may differ, because the noise is relative to it.

    Raises:
        PrivacyError: the two events differ.
    """
    same = done.without_norm() == planned.without_norm() if done is not None and planned is not None else done is planned
    if not same:
        raise PrivacyError(f"{whose}: {done} was done, but {planned} was planned; nothing was sent")
