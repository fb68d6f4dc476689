"""Synchronous rounds: the server waits for every client of the cohort (McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from privfl.federation.clocks import FloatArray
from privfl.federation.paces import Course, Turn
from privfl.federation.paces._by_round import RoundByRound, slowest
from privfl.privacy.cohorts import Drawn


class Synchronous(RoundByRound):
    """Rounds without lateness: each takes as long as its slowest client."""

    def turn(self, number: int, cohort: Drawn, durations_K: FloatArray, course: Course) -> tuple[Turn, float]:  # noqa: ARG002
        """See the contract."""
        return Turn(cohort), slowest(durations_K, cohort)

    def words(self) -> str:
        """No words."""
        return ""
