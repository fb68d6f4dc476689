"""Checks of a round: every client was trained once, in one process if need be, and every result is complete and finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from privfl.errors import ConfigError, ItemError, ModelError, PrivacyError, ProcessError
from privfl.federation.aggregators import Aggregate, Aggregator
from privfl.federation.servers import ServerOptimizer, State
from privfl.learning.training import LocalResult
from privfl.vectors import are_finite


def require_each_once(cohort: Sequence[int], came: Sequence[int]) -> None:
    """Raise unless each client was trained exactly once: an update counted twice exceeds its clipping norm.

    Args:
        cohort: the clients of the round.
        came: the clients that were trained, in any order.

    Raises:
        ProcessError: a client was trained twice or not at all, because the processes divided the cohort in different ways.
    """
    if sorted(cohort) != sorted(came):
        raise ProcessError(
            f"{len(set(came))} of {len(cohort)} clients were trained, {len(came)} times in all: the processes divided the "
            "cohort differently; run all of them on one kind of machine, or set training.engine and training.parts"
        )


def server_step(server: ServerOptimizer, before_D: Tensor, mean_D: Tensor, optimizer: State) -> tuple[Tensor, State]:
    """Run the server optimizer's step and check the types and shapes that it returns.

    Returns:
        the new global model, shape (D,), and the optimizer's new state.

    Raises:
        ItemError: the optimizer did not return a model like the old one together with a dictionary.
    """
    stepped: object = server.step(before_D, mean_D, optimizer)
    match stepped:
        case (Tensor(shape=before_D.shape, dtype=before_D.dtype) as after_D, dict() as after):
            return after_D, after
    raise ItemError(
        f"server {server.kind!r}: step() must return (global_D, state): the new model, a tensor of shape {(*before_D.shape,)} "
        f"and {before_D.dtype} like the old one, and a dictionary; it returned a {type(stepped).__name__} of something else"
    )


def require_result(aggregator: Aggregator, aggregate: object) -> None:
    """Raise unless the aggregate has a sum or says why there is none: a missing sum would be released as noise alone.

    Raises:
        ItemError: the aggregator returned another type.
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
            f"aggregator {aggregator.kind!r} returned {missing[0]} = None and gives no reason, so nothing was released; "
            "return the sum, or set `failed` to the reason"
        )


def require_finite(results: Sequence[LocalResult]) -> None:
    """Raise unless every loss and update is finite.

    Raises:
        ModelError: training diverged; the message names the client.
    """
    for result, finite in zip(results, are_finite([result.delta_D for result in results]), strict=True):
        if not (math.isfinite(result.loss) and finite):
            raise ModelError(f"client {result.client}: its loss or update is not finite, training diverged; lower training.lr")


def require_one_process(setting: str, reason: str, processes: int) -> None:
    """Raise if several processes share out the clients of a round that needs the whole cohort at once.

    Args:
        setting: the setting that needs it, with its value.
        reason: the noun of the need, as in "a run with several global models".
        processes: the number of processes that were started.

    Raises:
        ConfigError: says how to start the run.
    """
    if processes > 1:
        raise ConfigError(
            f"{setting}: {processes} processes were started, and a run with {reason} has one; start it without torchrun"
        )
