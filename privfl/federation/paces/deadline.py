"""Deadlines: a round ends after a fixed time, and what a late client has not done by then is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.federation.clocks import FloatArray
from privfl.federation.paces import Course, Turn
from privfl.federation.paces._by_round import RoundByRound, slowest
from privfl.federation.paces._checks import require_clock
from privfl.privacy.cohorts import Drawn
from privfl.tables import Size, contradiction


class Deadline(RoundByRound):
    """Rounds of at most ``seconds``. A round that everybody finishes earlier ends earlier.

    ``late = "drop"``: a late client's update is lost. ``"partial"``: the client sends the epochs, or steps if the settings
    count steps, that it has finished; one that has finished none is dropped. ``masking`` says when keys for secure
    aggregation are agreed on. ``before`` the training is the usual order of :mod:`privfl.secagg`: late clients fall silent
    at the masked input, and the protocol must withstand so many lost. ``after`` the training, those in time alone form the
    cohort.

    Whether a client is late depends on itself alone, so the price of secret cohorts holds: a client that is late in a round
    moves nothing. A client that is dropped after its keys were exchanged is charged, although it sent no update.
    """

    seconds: Size
    late: Literal["drop", "partial"] = "drop"
    masking: Literal["after", "before"] = "after"

    def check(self, config: ExperimentConfig) -> None:
        """See the contract."""
        super().check(config)
        require_clock(self, config)
        if self.masking == "before" and not getattr(config.aggregator, "hides_updates", False):
            raise contradiction(
                "pace.masking",
                self.masking,
                f"aggregator {config.aggregator.kind!r} has no masks; leave it out, or set aggregator.kind = 'secure_sum'",
            )
        if self.masking == "before" and self.late == "partial":
            raise contradiction(
                "pace.masking", self.masking, "belongs to pace.late = 'drop': partial work arrives in time; leave it out"
            )

    def turn(self, number: int, cohort: Drawn, durations_K: FloatArray, course: Course) -> tuple[Turn, float]:  # noqa: ARG002
        """See the contract."""
        units = dict(zip(cohort, self._units(durations_K[list(cohort)], course.units), strict=True))
        behind = tuple(client for client in cohort if units[client] < course.units)
        seconds = self.seconds if behind else slowest(durations_K, cohort)
        if self.late == "partial":
            work = {client: units[client] for client in behind if units[client]}
            came = tuple(client for client in cohort if units[client])
            return Turn(came, work=work, late=tuple(client for client in behind if client not in work)), seconds
        if self.masking == "before":
            return Turn(cohort, lost=frozenset(behind)), seconds
        return Turn(tuple(client for client in cohort if client not in behind), late=behind), seconds

    def _units(self, durations: FloatArray, units: int) -> list[int]:
        """The number of units of work that each client finishes in time. A unit that ends at the deadline is finished."""
        return [min(units, int(units * min(self.seconds / duration, 1.0) + 1e-9)) for duration in durations]

    def turns(self, course: Course) -> Iterator[Turn]:
        """See the contract."""
        found = list(super().turns(course))
        if any(turn.asked for turn in found) and not any(set(turn.clients) - turn.lost for turn in found):
            first_K = course.durations(0)
            least = float(first_K.min()) / (course.units if self.late == "partial" else 1)
            raise ConfigError(
                f"pace.seconds = {self.seconds:g}: every client is late in every round; in the first round the fastest would "
                f"need {least:.3g} s, the median client {float(np.median(first_K)):.3g} s; raise it, or set "
                "pace.late = 'partial'"
            )
        yield from found

    def words(self) -> str:
        """See the contract."""
        late = "late clients are dropped" if self.late == "drop" else "late clients send what they have finished"
        return f"each round ends after {self.seconds:g} simulated seconds, and {late}"
