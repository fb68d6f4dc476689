"""Stragglers: some clients of each round do only a part of their local epochs (Li et al. 2020, FedProx, section 5.2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privfl.config import ExperimentConfig
from privfl.federation.clocks import FloatArray
from privfl.federation.paces import Course, Turn
from privfl.federation.paces._by_round import RoundByRound
from privfl.privacy.cohorts import Drawn
from privfl.tables import contradiction


class Stragglers(RoundByRound):
    """Rounds in which a ``share`` of the cohort straggles.

    Among m clients round((1 − ``share``) · m), drawn at random, train as planned. Each other client does a number of epochs
    that is uniform in [1, E), or of steps if the settings count steps. ``late = "partial"`` keeps that work, as FedProx
    does; ``"drop"`` leaves stragglers out of the round, as FedAvg does in the same comparison.

    A straggler that is kept took fewer steps than its plan allows, and is charged for all of them. With a clock, a round
    takes as long as the last client that is kept.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    late: Literal["partial", "drop"] = "partial"

    def check(self, config: ExperimentConfig) -> None:
        """See the contract."""
        super().check(config)
        units = config.training.local_steps or config.training.local_epochs
        if units == 1:
            key = "local_steps" if config.training.local_steps else "local_epochs"
            raise contradiction(
                "pace.kind", self.kind, f"training.{key} = 1 leaves nothing to cut: stragglers do fewer; set it to at least 2"
            )
        if config.privacy.secret_cohorts:
            raise contradiction(
                "pace.kind",
                self.kind,
                f"who straggles depends on who else takes part, and {config.privacy.kind!r} assumes that a client's coming "
                "changes nobody else's work; set pace.kind = 'deadline', or privacy.kind = 'client_local'",
            )

    def check_clients(self, cohort: int) -> None:
        """See the contract."""
        if self.largest(cohort) < 1:
            allowed = "drops everybody in every round; lower it, or set pace.late = 'partial'"
            raise contradiction("pace.share", self.share, allowed)

    def largest(self, cohort: int) -> int:
        """Those that train as planned, and with partial work the stragglers too."""
        return cohort if self.late == "partial" else self._in_time(cohort)

    def _in_time(self, cohort: int) -> int:
        return round((1 - self.share) * cohort)

    def turn(self, number: int, cohort: Drawn, durations_K: FloatArray, course: Course) -> tuple[Turn, float]:
        """See the contract."""
        generator = (course.stream / "stragglers" / number).numpy()
        order = generator.permutation(len(cohort))
        in_time = {cohort[place] for place in order[: self._in_time(len(cohort))]}
        # Each client has its draw, so that the two ways with stragglers have the same ones.
        work = {client: int(generator.integers(1, course.units)) for client in cohort if client not in in_time}
        if self.late == "drop":
            work, cohort, late = {}, tuple(sorted(in_time)), tuple(work)
        else:
            late = ()
        seconds = [float(durations_K[client]) * work.get(client, course.units) / course.units for client in cohort]
        return Turn(cohort, work=work, late=late), max(seconds, default=0.0)

    def words(self) -> str:
        """See the contract."""
        kept = "do a part of their work" if self.late == "partial" else "are dropped"
        return f"{self.share:.0%} of them straggle and {kept}"
