"""Late clients in one round: work that is cut, updates of an older global model, and messages that never arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from privfl.errors import PrivacyError, ProtocolError
from privfl.federation.paces import Pace, Timetable, Turn
from privfl.learning.training import LocalTask, LocalWork
from privfl.privacy.events import Event, LocalTraining
from privfl.privacy.plans import Contribution

Versions = dict[int, Tensor]
"""Older global models, by the number of the round that began with each."""


@dataclass(frozen=True)
class Lateness:
    """Who is late in one round, and the rules of the run's pace.

    Args:
        pace: the pace.
        turn: the round's turn.
        number: the number of the round.
        needed: the rounds whose first model is still needed after this one.
        units: the number of epochs of a whole training, or of steps if the settings count steps.
    """

    pace: Pace
    turn: Turn
    number: int
    needed: frozenset[int] = frozenset()
    units: int = 1

    @classmethod
    def of(cls, pace: Pace, timetable: Timetable, number: int, units: int) -> Self:
        """The lateness in the round of that number."""
        return cls(pace, timetable.turn(number), number, timetable.needed_after(number), units)

    def start(self, client: int, versions: Versions) -> Tensor | None:
        """The older global model that a client trained from, shape (D,); None if it trained from the round's own."""
        staleness = self.turn.staleness.get(client)
        return versions[self.number - staleness] if staleness else None

    def work(self, task: LocalTask, whole: int, start_D: Tensor | None) -> LocalWork:
        """A task's work with fewer steps if it is cut, and from an older model if there is one.

        The older model also takes the present one's place as the centre of a pull.

        Args:
            task: the task, with the work of the algorithm.
            whole: the number of steps of its whole training, if the work has no number of its own.
            start_D: the older global model, shape (D,); None if the client has the round's own.
        """
        work, units = task.work, self.turn.work.get(task.client)
        whole = whole if work.steps is None else work.steps
        if units is not None and whole:
            work = replace(work, steps=max(1, whole * units // self.units))
        if start_D is None:
            return work
        centre_D = start_D if work.centre_D is None and work.mu else work.centre_D
        return replace(work, start_D=start_D if work.start_D is None else work.start_D, centre_D=centre_D)

    def weighted(self, client: int, one: Contribution) -> Contribution:
        """The contribution times the weight of its staleness, as the client sends it.

        **Guarantees.** The weight is in (0, 1] and public, and multiplies a message that is clipped, and noised if the
        client adds noise. The message's norm is thus still at most the clipping norm, and scaling it reveals nothing
        further. The groups were formed before this call: it has the round's turn and no other update.

        Raises:
            PrivacyError: the pace's weight is outside of (0, 1], so that the update could exceed its clipping norm.
        """
        staleness = self.turn.staleness.get(client)
        if not staleness:
            return one
        weight = self.pace.weight(staleness)
        if not 0 < weight <= 1:
            raise PrivacyError(
                f"pace {self.pace.kind!r}: weight({staleness}) = {weight:g}: must be in (0, 1], since a larger weight lets an "
                "update exceed its clipping norm; nothing was sent"
            )
        return replace(one, delta_D=one.delta_D * weight)

    def direction(self, direction_D: Tensor, global_D: Tensor, versions: Versions) -> Tensor:
        """The direction of the server's step, after the pace; changed only if a single client came."""
        if len(self.turn.clients) != 1:
            return direction_D
        (client,) = self.turn.clients
        start_D = self.start(client, versions)
        staleness = self.turn.staleness.get(client, 0)
        return self.pace.direction(direction_D, global_D, global_D if start_D is None else start_D, staleness)

    def kept(self, versions: Versions, global_D: Tensor) -> Versions:
        """The global models that later rounds need, that of this round's beginning among them."""
        every = {**versions, self.number: global_D}
        return {begun: every[begun] for begun in sorted(self.needed)}

    def require_lost(self, survivors: Sequence[int]) -> None:
        """Raise if a client whose messages stopped is in the sum.

        Raises:
            ProtocolError: names the clients.
        """
        if came := sorted(self.turn.lost & set(survivors)):
            raise ProtocolError(f"clients {came} were late and are in the sum; the aggregator must heed RoundContext.lost")


def planned_with(planned: Event | None, steps: int | None) -> Event | None:
    """The event that a client spends if its local training has that number of steps and not the planned one.

    A shorter training is the beginning of the planned one. It is charged as the whole, which is an upper bound. A longer
    one is no part of the plan, and the planned event is returned, from which it differs.
    """
    if isinstance(planned, LocalTraining) and steps is not None and steps <= planned.steps:
        return planned.model_copy(update={"steps": steps})
    return planned


def on_device(versions: Versions, device: torch.device) -> Versions:
    """The models on that device."""
    return {begun: model_D.to(device) for begun, model_D in versions.items()}
