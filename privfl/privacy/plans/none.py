"""No privacy: ordinary federated training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from privfl.adversaries import Adversary
from privfl.config import ExperimentConfig
from privfl.errors import PrivacyError
from privfl.privacy.events import Event, Unit
from privfl.privacy.gaussian import Randomness
from privfl.privacy.ledger import Account
from privfl.privacy.mechanisms import Relation
from privfl.privacy.plans import Federation, Plan, PlanSettings, PlanWords


@dataclass(frozen=True)
class NoPlan(Plan):
    """Plan without a promise: it adds no noise."""

    # Left out of the representation, since all such plans are alike.
    noise_multiplier: float | None = field(default=0.0, init=False, repr=False)
    delta: float = field(default=0.5, init=False, repr=False)
    budget: float | None = field(default=None, init=False, repr=False)
    randomness: Randomness = field(default="seeded", init=False, repr=False)

    promises: ClassVar[bool] = False
    unit: ClassVar[Unit] = "example"
    relation: ClassVar[Relation] = "add_or_remove_one"
    adversaries: ClassVar[tuple[Adversary, ...]] = ()
    clip: ClassVar[float] = 0.0

    def planned(self, size: int) -> Event:  # noqa: ARG002
        """No event: nothing is spent without a promise.

        Raises:
            PrivacyError: always.
        """
        raise PrivacyError("privacy.kind = 'none': nothing is promised, so no round has an event; set privacy.kind = 'example'")

    def accounts(self, cohort: object) -> tuple[Account, ...]:  # noqa: ARG002
        """No accounts."""
        return ()

    def calibrated(self, noise_multiplier: float) -> NoPlan:  # noqa: ARG002
        """This plan, unchanged."""
        return self

    def without_terms(self) -> NoPlan:
        """This plan, unchanged."""
        return self


class NoPrivacy(PlanSettings):
    """Ordinary federated training without a privacy promise."""

    promises: ClassVar[bool] = False

    def plan(self, config: ExperimentConfig, federation: Federation) -> NoPlan:  # noqa: ARG002
        """See :class:`PlanSettings`."""
        return NoPlan()

    def words(self, sampler: str) -> PlanWords:  # noqa: ARG002
        """The sentence that no noise is added."""
        return PlanWords(noise="No noise is added.", public="")
