"""Paces by which each round begins when the one before has ended, all clients from the same global model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace

from privfl.federation.clocks import FloatArray
from privfl.federation.paces import Course, Pace, Turn
from privfl.privacy.cohorts import Drawn, draw_cohorts


class RoundByRound(Pace):
    """A pace of rounds that do not overlap."""

    @abstractmethod
    def turn(self, number: int, cohort: Drawn, durations_K: FloatArray, course: Course) -> tuple[Turn, float]:
        """The turn of one round, and the seconds that the round takes.

        Args:
            number: the number of the round, from 0.
            cohort: the clients that were drawn, ascending.
            durations_K: the seconds of each client's whole training; zeros without a clock.
            course: the facts of the run.
        """

    def turns(self, course: Course) -> Iterator[Turn]:
        """See the contract."""
        elapsed = 0.0
        for number, cohort in enumerate(draw_cohorts(course.sampler, course.clients, course.rounds, course.cohort_stream)):
            turn, seconds = self.turn(number, cohort, course.durations(number), course)
            elapsed += seconds
            yield replace(turn, ends=elapsed) if course.clock.ticks else turn


def slowest(durations_K: FloatArray, clients: Drawn) -> float:
    """Seconds until the last of the clients is done; 0 if there are none."""
    return float(durations_K[list(clients)].max()) if clients else 0.0
