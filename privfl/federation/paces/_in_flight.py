"""Paces without a common beginning of rounds: clients train from whatever global model there is when they are asked."""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Collection, Iterator
from typing import Annotated, Final

from pydantic import Field

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.federation.clocks import FloatArray
from privfl.federation.paces import Course, Pace, Turn
from privfl.federation.paces._checks import require_clock
from privfl.privacy.cohorts import Drawn
from privfl.tables import contradiction

Exponent = Annotated[float, Field(ge=0, le=100)]

_DRAWS: Final = 10_000
"""A sampler that names no free client in so many draws is taken to name none ever."""


class InFlight(Pace):
    """A pace by which the server keeps a number of clients training, the expected size of a cohort, and steps with each group.

    Cohorts are drawn as in synchronous rounds, and name the clients to ask, one after another. A client that is training, or is
    waiting for its group, is passed over. A client that is done says so; the first clients that have said so form a group,
    which is fixed before anything is masked or sent. All that are done at one moment are grouped before anybody is asked
    again. ``exponent`` is that of a weight's decay with staleness.
    """

    exponent: Exponent = 0.5

    @property
    @abstractmethod
    def group(self) -> int:
        """The number of clients in a group."""

    def asked(self, cohort: int) -> int:  # noqa: ARG002
        """The size of a group."""
        return self.group

    def check(self, config: ExperimentConfig) -> None:
        """See the contract."""
        super().check(config)
        require_clock(self, config)
        if not config.algorithm.from_older:
            raise contradiction(
                "algorithm.kind",
                config.algorithm.kind,
                f"with pace {self.kind!r} clients train from older models, and this algorithm's terms are those of one round; "
                "set 'fedavg' or 'fedprox'",
            )
        if config.privacy.secret_cohorts:
            raise contradiction(
                "privacy.kind",
                config.privacy.kind,
                "its price counts on cohorts that are drawn at random and kept secret, and arrivals are neither; set "
                "'client_dpftrl' with cohort.kind = 'separated', 'client_local' or 'example'",
            )
        if (least := int(getattr(config.aggregator, "minimum_clients", 1))) > self.group:
            raise contradiction(
                "aggregator.kind",
                config.aggregator.kind,
                f"needs at least {least} clients in a sum, and pace {self.kind!r} sums {self.group}; {self.way_out(least)}",
            )

    def check_clients(self, cohort: int) -> None:
        """See the contract."""
        if self.group > cohort:
            raise contradiction(
                "pace.size",
                self.group,
                f"a buffer must not be larger than the number of clients in flight, {cohort}; lower it, or raise cohort.size",
            )

    @abstractmethod
    def way_out(self, least: int) -> str:
        """The settings to change if an aggregator needs that many clients."""

    def turns(self, course: Course) -> Iterator[Turn]:
        """See the contract."""
        flight = Flight(self.group, course)
        for number in range(course.rounds):
            yield flight.turn(number)


class Flight:
    """The clients that train, and those that are done, in the course of a run.

    Args:
        group: K, the number of clients in a group.
        course: the facts of the run.
    """

    def __init__(self, group: int, course: Course) -> None:
        self.size = course.sampler.expected(course.clients)
        self.training: list[tuple[float, int, int]] = []
        """A heap: when a client will be done, the client, and the round whose first model it trains from."""
        self.done: list[tuple[int, int]] = []
        """Clients that wait for their group, with the round whose first model they trained from, in order of arrival."""
        self.begun = Counter[int]()
        """The number of trainings that each client has begun."""
        self._group, self._course, self._rests = group, course, course.sampler.min_separation or 0
        self._grouped: dict[int, int] = {}
        self._drawn: list[Drawn] = []
        self._queue: deque[int] = deque()
        self._durations: dict[int, FloatArray] = {}
        self._ask(0.0, 0)

    def turn(self, number: int) -> Turn:
        """The next group.

        Args:
            number: the number of the round, one more than at the last call.

        Raises:
            ConfigError: no group can form, since too few clients may be asked.
        """
        now = self._now
        while len(self.done) < self._group:
            # Nobody is asked between two groups of one moment.
            self._ask(now, number)
            if not self.training:
                raise ConfigError(
                    f"pace.size = {self._group}: {len(self.done)} clients are done and no other may be asked, since all "
                    f"rest for cohort.separation = {self._rests} rounds; lower either, or divide the data among more clients"
                )
            now = self.training[0][0]
            while self.training and self.training[0][0] == now:
                _, client, begun = heapq.heappop(self.training)
                self.done.append((client, begun))
        self._now = now
        group, self.done = self.done[: self._group], self.done[self._group :]
        self._grouped.update(dict.fromkeys((client for client, _ in group), number))
        staleness = {client: number - begun for client, begun in sorted(group) if begun < number}
        return Turn(tuple(sorted(client for client, _ in group)), staleness=staleness, ends=now)

    _now = 0.0

    def _ask(self, now: float, number: int) -> None:
        """Ask clients until enough train, as far as there are any that are free."""
        busy = {client for _, client, _ in self.training} | {client for client, _ in self.done}
        for client in self._next(self.size - len(self.training), busy, number):
            nth = self.begun[client]
            if nth not in self._durations:
                self._durations[nth] = self._course.durations(nth)
            heapq.heappush(self.training, (now + float(self._durations[nth][client]), client, number))
            self.begun[client] += 1

    def _next(self, count: int, busy: Collection[int], number: int) -> list[int]:
        """The next clients to ask, in the order of the cohorts that are drawn."""
        # A client whose last group was round g may not be in a group before round g + separation.
        free = {client for client in range(self._course.clients) if client not in busy and self._rested(client, number)}
        taken: list[int] = []
        draws = 0
        while free and len(taken) < count:
            if not self._queue:
                draws += 1
                if draws > _DRAWS:
                    kind = self._course.sampler.kind
                    raise ConfigError(f"cohort.kind = {kind!r}: draws none of clients {sorted(free)[:5]}; mend the sampler")
                stream = self._course.cohort_stream / len(self._drawn)
                self._drawn.append(self._course.sampler.draw(self._course.clients, self._drawn, stream.numpy()))
                self._queue.extend(self._drawn[-1])
                continue
            client = self._queue.popleft()
            if client in free:
                free.remove(client)
                taken.append(client)
        return taken

    def _rested(self, client: int, number: int) -> bool:
        return client not in self._grouped or number >= self._grouped[client] + self._rests
