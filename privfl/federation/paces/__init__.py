"""SHELF of paces: when the server aggregates, and what becomes of clients that are late. An item's name in a configuration is
that of its file (``pace = "deadline"``; the default, ``synchronous``, waits for everybody).

A pace turns the cohorts that are drawn and the durations of a clock into a :class:`Timetable`: who takes part in each
round, from which global model, and with how much work. Durations depend on public sizes and on a stream of their own, so
the whole timetable is known before the first round. No example moves it, and a run is priced from it without training.

An item is one module with one class that derives from :class:`Pace`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from privfl.config import PaceConfig
from privfl.federation.clocks import Clock, FloatArray
from privfl.privacy.cohorts import CohortSampler, Drawn
from privfl.seeding import Seed


@dataclass(frozen=True)
class Turn:
    """Who takes part in one round.

    Args:
        clients: the clients that train and are charged, ascending.
        staleness: for each client that trained from an older global model, the number of rounds by which it is older; at
            least 1.
        work: for each client whose work is cut, the number of epochs, or of steps if the settings count steps, that it does.
        late: clients that were asked and send nothing, ascending; they are not among ``clients``.
        lost: clients whose messages stop after their keys were exchanged; they are among ``clients``.
        ends: simulated seconds from the start of the run to the end of the round; None if there is no time.
    """

    clients: Drawn
    staleness: Mapping[int, int] = field(default_factory=dict)
    work: Mapping[int, int] = field(default_factory=dict)
    late: Drawn = ()
    lost: frozenset[int] = frozenset()
    ends: float | None = None

    @property
    def asked(self) -> Drawn:
        """The clients that take part, and those that were asked and are too late, ascending."""
        return tuple(sorted((*self.clients, *self.late)))


@dataclass(frozen=True)
class Timetable:
    """The turns of all rounds of a run."""

    turns: tuple[Turn, ...]

    @property
    def cohorts(self) -> tuple[Drawn, ...]:
        """The clients of each round."""
        return tuple(turn.clients for turn in self.turns)

    @property
    def asked(self) -> tuple[Drawn, ...]:
        """The clients of each round with those that are too late: the cohorts as they were drawn."""
        return tuple(turn.asked for turn in self.turns)

    @cached_property
    def _last_use(self) -> dict[int, int]:
        """The last round in which somebody comes who trained from the model of a round, by that round."""
        found: dict[int, int] = {}
        for number, turn in enumerate(self.turns):
            for staleness in turn.staleness.values():
                found[number - staleness] = number
        return found

    def turn(self, number: int) -> Turn:
        """The turn of that round; after the last one nobody comes, and nobody is late."""
        return self.turns[number] if number < len(self.turns) else Turn(())

    def needed_after(self, number: int) -> frozenset[int]:
        """The rounds up to that one whose first model is still needed when it is over."""
        return frozenset(begun for begun, used in self._last_use.items() if begun <= number < used)

    def with_rounds(self, done: int, cohorts: Iterable[Drawn]) -> Timetable:
        """The first ``done`` rounds, followed by rounds of other cohorts that nobody is late for."""
        return Timetable((*self.turns[:done], *map(Turn, cohorts)))


@dataclass(frozen=True)
class Course:
    """The facts that a timetable is made from; all of them are public, or drawn from streams that know no example.

    Args:
        clients: K, the number of clients.
        rounds: the number of rounds.
        sampler: draws the cohorts.
        cohort_stream: the root of its randomness; round r draws from ``cohort_stream / r``.
        clock: the clients' durations.
        stream: the root of the randomness of clock and pace.
        steps_K: the number of local steps of each client's whole training, by its public size.
        units: the number of epochs of a whole training, or of steps if the settings count steps.
    """

    clients: int
    rounds: int
    sampler: CohortSampler
    cohort_stream: Seed
    clock: Clock
    stream: Seed
    steps_K: FloatArray
    units: int

    def durations(self, training: int) -> FloatArray:
        """Seconds that each client takes for its training of that number, of shape (K,)."""
        return self.clock.durations(training, self.steps_K, self.stream / "clock")


class Pace(PaceConfig, ABC):
    """A pace of rounds."""

    @abstractmethod
    def turns(self, course: Course) -> Iterator[Turn]:
        """The turn of each round, in order; the turns of a shorter run are the first of a longer one.

        Raises:
            ConfigError: nobody would ever be in time.
        """

    def weight(self, staleness: int) -> float:  # noqa: ARG002
        """The factor of an update that is so stale, in (0, 1].

        The client multiplies its clipped message by it before it is masked. It is public, because staleness is.
        """
        return 1.0

    def direction(self, direction_D: Tensor, global_D: Tensor, start_D: Tensor, staleness: int) -> Tensor:  # noqa: ARG002
        """The direction of the server's step if one client came that is so stale.

        Args:
            direction_D: the direction that the algorithm gives.
            global_D: the present global model.
            start_D: the global model that the client trained from.
            staleness: the number of rounds between the two.
        """
        return direction_D

    @abstractmethod
    def words(self) -> str:
        """How rounds follow each other, for the page, after the words about the cohorts; empty if there is nothing to say."""


def timetable(pace: Pace, course: Course) -> Timetable:
    """The timetable of a run."""
    return Timetable(tuple(pace.turns(course)))
