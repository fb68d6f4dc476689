"""Checks of a round: who was trained, and whether results are what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from privfl.errors import ItemError, ModelError, PrivacyError, ProcessError
from privfl.federation.aggregators import Aggregate, Aggregator
from privfl.federation.servers import ServerOptimizer, State
from privfl.learning.training import LocalResult
from privfl.vectors import are_finite


def require_each_once(cohort: Sequence[int], came: Sequence[int]) -> None:
    """Raise unless each client was trained exactly once: an update counted twice exceeds its clipping norm.

    Raises:
        ProcessError: the processes did not share the cohort out between them.
    """
    if sorted(cohort) != sorted(came):
        raise ProcessError(
            f"of a cohort of {len(cohort)} clients {len(set(came))} were trained, {len(came)} times in all: the processes did "
            "not cut it alike; run all on one kind of machine, or set training.engine and training.parts"
        )


def step_of(server: ServerOptimizer, before_D: Tensor, mean_D: Tensor, optimizer: State) -> tuple[Tensor, State]:
    """The server's step.

    Raises:
        ItemError: it returned something else than a model like the one that it was given, and its own state.
    """
    stepped: object = server.step(before_D, mean_D, optimizer)
    match stepped:
        case (Tensor(shape=before_D.shape, dtype=before_D.dtype) as after_D, dict() as after):
            return after_D, after
    raise ItemError(
        f"server {server.kind!r}: step() must return (global_D, state): the new model, of shape {(*before_D.shape,)} and "
        f"{before_D.dtype} like the old one, and a dictionary; it returned a {type(stepped).__name__} of something else"
    )


def require_result(aggregator: Aggregator, aggregate: object) -> None:
    """Raise unless the aggregate has what it says: a lost sum would be released as noise alone, in silence.

    Raises:
        ItemError: it is no aggregate.
        PrivacyError: a result is missing, and no reason is given.
    """
    if not isinstance(aggregate, Aggregate):
        found = type(aggregate).__name__
        raise ItemError(
            f"aggregator {aggregator.kind!r} returned a {found}; it must return an Aggregate of privfl.federation.aggregators"
        )
    missing = [name for name in ("mean_D", "sum_D")[: 1 + aggregator.linear] if getattr(aggregate, name) is None]
    if missing and aggregate.failed is None:
        raise PrivacyError(
            f"aggregator {aggregator.kind!r} gave {missing[0]} = None and does not say why; nothing was released: "
            "give the sum, or say in `failed` why there is none"
        )


def require_finite(results: Sequence[LocalResult]) -> None:
    """Raise unless every loss and update is finite.

    Raises:
        ModelError: names the client.
    """
    for result, finite in zip(results, are_finite([result.delta_D for result in results]), strict=True):
        if not (math.isfinite(result.loss) and finite):
            raise ModelError(f"client {result.client}: its loss or update is not finite, training diverged; lower training.lr")
