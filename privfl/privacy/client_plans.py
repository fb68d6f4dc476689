"""Plans that protect whole clients: the update is clipped as one, and noise is added to it or to sums of it.

Weights are uniform, and denominators depend on nobody's coming or data.
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

PUBLIC_COHORT = "Who takes part in which round, and the settings of the run."
"""The facts that a plan takes to be public if it gains nothing from sampling."""


@dataclass(frozen=True)
class ClientPlan(Plan):
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
    clips_updates: ClassVar[bool] = True

    @property
    def clip(self) -> float:
        """C, the L2 norm that one unit's contribution is clipped to."""
        return self.max_update_norm

    @abstractmethod
    def planned(self, size: int = 0) -> Event:
        """See :class:`Plan`; a client's size is of no effect."""

    def for_clients(self, state: PlanState) -> PlanState:
        """The norm, if it adapts."""
        return {name: value.cpu() for name, value in state.items() if name == "norm"}

    def weight(self, size: int, largest: int) -> float:  # noqa: ARG002
        """The same for every client: one by its size would move the sum by more than it is clipped to."""
        return 1.0

    def clipped_share(self, trained: Sequence[float], within: Sequence[bool]) -> float | None:  # noqa: ARG002
        """The share of updates that were longer than the norm."""
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
                f"privacy.clipping.kind = 'adaptive': the secure sum rounds or clips the {self.entry:g} that it counts by; "
                "raise aggregator.bits, or set aggregator.clip to 0.5 or a little more"
            )

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
            state: the state that the last round left.
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
    def at_server(self, total: WeightedSum, state: PlanState, round_number: int, stream: Seed) -> Release:
        """See :class:`Plan`."""

    def calibrated(self, noise_multiplier: float) -> Self:
        """The same plan with its noise fixed."""
        return replace(self, noise_multiplier=noise_multiplier)

    def _norm(self, state: PlanState) -> float:
        """C of this round."""
        return float(state["norm"]) if "norm" in state else self.max_update_norm

    def _noise(self) -> float:
        assert self.noise_multiplier is not None, "the plan was not calibrated"
        return self.noise_multiplier


class PublicCohortPlan(ClientPlan):
    """A plan that does not trust the server: it sees who takes part, and each client spends for itself."""

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
        total: WeightedSum,
        state: PlanState,
        round_number: int,  # noqa: ARG002
        stream: Seed,  # noqa: ARG002
    ) -> Release:
        """The mean over those who took part, who are public."""
        return Release((total.sum_D / max(total.weight, 1.0)).float(), state, None)


class ClientSettings(PromiseSettings):
    """The settings of every client-level plan: the whole update is clipped to ``max_update_norm`` in L2."""

    prices_sum: ClassVar[bool] = False
    """Whether the price is that of a sum over clients, which only a linear aggregator gives."""

    adapts: ClassVar[bool] = False
    """Whether the norm may adapt."""

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
        """N is the number of clients."""
        if self.delta >= 1 / clients:
            raise contradiction("privacy.delta", self.delta, f"must be below 1/N = 1/{clients}, one over the number of clients")

    def shared(self) -> dict[str, Any]:
        """The fields that every :class:`ClientPlan` has."""
        return {
            "noise_multiplier": self.noise_multiplier,
            "max_update_norm": self.max_update_norm,
            "delta": self.delta,
            "budget": self.budget,
            "scheme": scheme_of(self.clipping),
            "randomness": self.randomness,
        }
