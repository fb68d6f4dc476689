"""Local training of a cohort: each client's own procedure, with the steps of all clients in one call of the trainer.

An algorithm describes one client, as a generator that gives one :class:`LocalWork` after another. The generators of a cohort go
on together: their next works are trained in one call, so that an engine still trains all clients as one program.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from privfl.errors import PrivacyError
from privfl.learning.training import LocalResult, LocalTask, LocalWork, Trainer

Given = TypeVar("Given")


@dataclass(frozen=True)
class Moved:
    """The result of one work that an algorithm may use. Under an example-level plan all of it has its noise.

    Losses and shares of clipped gradients are missing on purpose, because they are computed from the data without noise.

    Args:
        delta_D: final weights minus those that the work started from.
        gradient_weight: ‖a‖₁, see :class:`privfl.learning.training.LocalResult`; 0 if it is not known.
        weights_D: the final weights, if the work asked for them.
    """

    delta_D: Tensor
    gradient_weight: float
    weights_D: Tensor | None

    def whole(self) -> Tensor:
        """The final weights of a work that asked for them."""
        assert self.weights_D is not None, "the work did not ask for its final weights"
        return self.weights_D


@dataclass(frozen=True)
class Ended:
    """The end of a client's training for a round.

    Args:
        delta_D: the client's local model minus the global one, which its upload is computed from.
        gradient_weight: ‖a‖₁ of the whole training; 0 if the update is not linear in the gradients.
        personal: the client's personal state, if the training has one as a by-product.
    """

    delta_D: Tensor
    gradient_weight: float = 0.0
    personal: dict[str, Tensor] = field(default_factory=dict)


Training = Generator[LocalWork, Moved, Given]
"""A client's procedure: it gives works, receives their results, and returns something."""


def carried_out(
    trainer: Trainer, global_D: Tensor, tasks: Sequence[LocalTask], trainings: Sequence[Training[Given]]
) -> list[tuple[Given, list[LocalResult]]]:
    """Carry out the procedures of some clients, all first works in one call, then all second ones, and so on.

    Args:
        trainer: trains each work.
        global_D: the global model.
        tasks: the clients' data and streams. The first work of a client draws from the task's streams, each later one from
            streams of its own.
        trainings: a procedure for each task.

    Returns:
        what each procedure returned, and the results of its works.
    """
    given: dict[int, Given] = {}
    results: list[list[LocalResult]] = [[] for _ in tasks]
    waiting: dict[int, LocalWork] = {}

    def go_on(place: int, moved: Moved | None) -> None:
        try:
            waiting[place] = next(trainings[place]) if moved is None else trainings[place].send(moved)
        except StopIteration as end:
            waiting.pop(place, None)
            given[place] = end.value

    for place in range(len(tasks)):
        go_on(place, None)
    number = 0
    while waiting:
        places = list(waiting)
        found = trainer.train(global_D, [_task(tasks[place], waiting[place], number) for place in places])
        for place, result in zip(places, found, strict=True):
            results[place].append(result)
            go_on(place, Moved(result.delta_D, result.gradient_weight or 0.0, result.weights_D))
        number += 1
    return [(given[place], results[place]) for place in range(len(tasks))]


def _task(task: LocalTask, work: LocalWork, number: int) -> LocalTask:
    # A work without a length of its own is cut if the client's round is.
    work = work if work.steps is not None or work.batches is not None else replace(work, steps=task.work.steps)
    return replace(task, work=work, seed=task.seed / "work" / number if number else task.seed)


def joined(ended: Ended, results: Sequence[LocalResult]) -> LocalResult:
    """The result of a client's whole training, whose event counts the steps of all of its works.

    Raises:
        PrivacyError: the works differ in more than their number of steps, so that they are no single event.
    """
    first, steps = results[0], sum(result.steps for result in results)
    if len(results) == 1:
        return replace(first, delta_D=ended.delta_D, gradient_weight=ended.gradient_weight or None)
    event = first.event
    for other in [result.event for result in results[1:]]:
        if (event is None) != (other is None):
            raise PrivacyError(f"client {first.client}: a part of its training has no noise; nothing was sent")
        if event is not None and other is not None:
            if event.model_copy(update={"steps": other.steps}) != other:
                raise PrivacyError(f"client {first.client}: its trainings have events that differ; nothing was sent")
            event = event.model_copy(update={"steps": event.steps + other.steps})

    def mean(values: Sequence[float]) -> float:
        weighted = zip(values, results, strict=True)
        return sum(value * result.steps for value, result in weighted) / max(steps, 1)

    return replace(
        first,
        delta_D=ended.delta_D,
        loss=mean([result.loss for result in results]),
        clipped_share=mean([result.clipped_share for result in results]),
        event=event,
        zeroed=sum(result.zeroed for result in results),
        steps=steps,
        gradient_weight=ended.gradient_weight or None,
        weights_D=None,
    )
