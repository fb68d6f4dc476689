"""Client-level plans: the base classes of plans that protect all data of one client.

A client's whole update is clipped, and noise is added to it or to a sum of such updates. Weights are uniform. Denominators
depend neither on who takes part nor on anybody's data.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from privfl.adversaries import Adversary
from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, PrivacyError
from privfl.privacy.clipping import clip_update
from privfl.privacy.events import Event, Unit
from privfl.privacy.gaussian import Randomness
from privfl.privacy.mechanisms import Relation
from privfl.privacy.plans import Contribution, Plan, PlanState, PromiseSettings, Release, WeightedSum
from privfl.privacy.plans._clipping import Clipping, FlatClipping, scheme_of
from privfl.seeding import Seed
from privfl.tables import Size, contradiction
from privfl.vectors import Layout

PUBLIC_COHORT = "The cohort of each round, and the settings of the run."
"""The public facts of a plan without amplification by sampling."""


@dataclass(frozen=True)
class ClientPlan(Plan):
    """Base class of client-level plans: clips a client's whole update, with uniform weights.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm; None until it is calibrated.
        max_update_norm: C, the L2 norm that a client's whole update is clipped to.
        delta: the δ at which ε is stated.
        budget: the largest ε allowed; None: no limit.
        scheme: clips the whole update at once, or layer by layer.
        randomness: source of the noise.
    """

    noise_multiplier: float | None
    max_update_norm: float
    delta: float
    budget: float | None
    scheme: Literal["flat", "per_layer"]
    randomness: Randomness

    unit: ClassVar[Unit] = "client"
    clips_updates: ClassVar[bool] = True

    @property
    def clip(self) -> float:
        """C, the L2 norm that one unit's contribution is clipped to."""
        return self.max_update_norm

    @abstractmethod
    def planned(self, size: int = 0) -> Event:
        """See :class:`Plan`; ``size`` has no effect."""

    def for_clients(self, state: PlanState) -> PlanState:
        """The clipping norm if it adapts; else nothing."""
        return {name: value.cpu() for name, value in state.items() if name == "norm"}

    def weight(self, size: int, largest: int) -> float:  # noqa: ARG002
        """The same weight for every client, so that the clipping norm bounds how far one client moves the sum."""
        return 1.0

    def clipped_share(self, trained: Sequence[float], within: Sequence[bool]) -> float | None:  # noqa: ARG002
        """The share of updates that were longer than the norm; None if nobody came."""
        return 1 - sum(within) / len(within) if within else None

    def require_possible(self, rounding: float, carried: bool) -> None:
        """See :class:`Plan`."""
        if rounding >= self.max_update_norm:
            raise ConfigError(
                f"privacy.max_update_norm = {self.max_update_norm:g}: the encoding of the secure sum may move an update by "
                f"{rounding:.3g}; raise it or aggregator.bits, or lower aggregator.clip"
            )
        if not carried:
            raise ConfigError(
                f"privacy.clipping.kind = 'adaptive': the secure sum rounds or clips the {self.count_entry:g} that it counts "
                "by; raise aggregator.bits, or set aggregator.clip to 0.5 or a little more"
            )

    def at_client(
        self,
        delta_D: Tensor,
        layout: Layout,
        state: PlanState,
        stream: Seed,  # noqa: ARG002
        rounding: float = 0.0,
    ) -> Contribution:
        """One client's clipped update.

        **Guarantees.** For every update, the result's L2 norm is at most C − ``rounding``. An update that is not finite
        becomes zero.

        Args:
            delta_D: the update.
            layout: names and shapes of its parts.
            state: the plan's state after the last round.
            stream: random stream of this client and round.
            rounding: largest L2 distance by which the aggregator's encoding may move the result before the noise is added.

        Raises:
            PrivacyError: the encoding alone may move an update by C or more.
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
    def at_server(self, total: WeightedSum, state: PlanState, round_number: int, stream: Seed) -> Release:
        """See :class:`Plan`."""

    def calibrated(self, noise_multiplier: float) -> Self:
        """The same plan with its noise fixed."""
        return replace(self, noise_multiplier=noise_multiplier)

    def _norm(self, state: PlanState) -> float:
        """C of the present round."""
        return float(state["norm"]) if "norm" in state else self.max_update_norm

    def _noise(self) -> float:
        assert self.noise_multiplier is not None, "the plan was not calibrated"
        return self.noise_multiplier


class PublicCohortPlan(ClientPlan):
    """A client-level plan without trust in the server: cohorts are public, and each client has its own ε."""

    @property
    def relation(self) -> Relation:
        """A client's update is present or is zero; it takes part in both cases."""
        return "add_or_remove_one"

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """All adversaries, as long as they keep to the protocol."""
        return ("external", "client", "server")

    def at_server(
        self,
        total: WeightedSum,
        state: PlanState,
        round_number: int,  # noqa: ARG002
        stream: Seed,  # noqa: ARG002
    ) -> Release:
        """The mean over the clients that took part, who are public."""
        return Release((total.sum_D / max(total.weight, 1.0)).float(), state, None)


class ClientSettings(PromiseSettings):
    """Base class of the settings of client-level plans: the whole update is clipped to L2 norm ``max_update_norm``."""

    prices_sum: ClassVar[bool] = False
    """Whether the plan is priced as a sum over clients, which only a linear aggregator gives."""

    adapts: ClassVar[bool] = False
    """Whether the clipping norm may adapt."""

    clips_messages: ClassVar[bool] = True

    max_update_norm: Size
    clipping: Clipping = FlatClipping(kind="flat")

    def check(self, config: ExperimentConfig) -> None:
        """See :class:`PlanSettings`."""
        if self.clipping.kind == "adaptive" and not self.adapts:
            raise contradiction(
                "privacy.clipping.kind",
                "adaptive",
                f"the noise of {self.kind!r} is scaled to one norm for the whole run; "
                "set privacy.clipping = 'flat', or privacy.kind = 'client_central'",
            )
        if self.prices_sum and not getattr(config.aggregator, "linear", False):
            raise contradiction(
                "aggregator.kind",
                config.aggregator.kind,
                f"the ε of {self.kind!r} is that of a noised sum of clipped updates, and this aggregator gives no weighted "
                "sum: set 'mean' or 'secure_sum', or privacy.kind = 'client_local'; "
                "an aggregator of your own that gives one declares linear = True",
            )

    def check_clients(self, config: ExperimentConfig, clients: int) -> None:  # noqa: ARG002
        """Require δ < 1/N, with N the number of clients."""
        if self.delta >= 1 / clients:
            raise contradiction("privacy.delta", self.delta, f"must be below 1/N = 1/{clients}, one over the number of clients")

    def shared(self) -> dict[str, Any]:
        """The arguments that every :class:`ClientPlan` takes."""
        return {
            "noise_multiplier": self.noise_multiplier,
            "max_update_norm": self.max_update_norm,
            "delta": self.delta,
            "budget": self.budget,
            "scheme": scheme_of(self.clipping),
            "randomness": self.randomness,
        }
