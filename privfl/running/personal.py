"""Personal models of a run: every client's own model, and the model that the client would have alone, on its own hold-out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from privfl.federation.local_training import carried_out
from privfl.federation.server_state import ServerState, begun
from privfl.learning import evaluation
from privfl.learning.training import LocalWork
from privfl.records import PersonalResult, Spread
from privfl.running.experiment import Experiment
from privfl.vectors import are_finite

_AT_ONCE = 100
"""Clients whose models are made before they are evaluated, so that memory does not grow with the number of clients."""


def models(experiment: Experiment, state: ServerState) -> Iterator[tuple[int, Tensor]]:
    """Each client's own model after a round, with its number; nothing if the algorithm has none.

    A model that takes further training is trained on the client's training examples alone. Clients that have no model of
    their own, because they never took part, are left out.
    """
    trainer, algorithm = experiment.personal, experiment.algorithm
    if trainer is None:
        return
    task, clients = experiment.tasks(state), range(len(experiment.data.clients))
    for start in range(0, len(clients), _AT_ONCE):
        tasks = [task(client) for client in clients[start : start + _AT_ONCE]]
        tasks = [replace(one, seed=one.seed / "evaluation", work=LocalWork()) for one in tasks]
        beginnings = [
            replace(begun(algorithm, state, one, trainer, experiment.terms), personal=_personal(experiment, state, one.client))
            for one in tasks
        ]
        found = carried_out(trainer, state.global_D, tasks, [algorithm.personalised(one) for one in beginnings])
        for one, (model_D, _) in zip(tasks, found, strict=True):
            if model_D is not None:
                yield one.client, model_D


def _personal(experiment: Experiment, state: ServerState, client: int) -> dict[str, Tensor]:
    found = state.clients.get(client)
    return {} if found is None else {name: value.to(experiment.x.device) for name, value in found.personal.items()}


def alone(experiment: Experiment, took_part: Iterable[Sequence[int]]) -> dict[int, Tensor]:
    """The model of each client that trains alone, from the initial model, in the rounds in which it took part.

    It takes the local steps of the run's settings, without a promise and without ever receiving a model. If a training is
    not finite, the client keeps the model that it had.

    Args:
        experiment: the run.
        took_part: the clients of each round.
    """
    assert experiment.personal is not None, "the algorithm has personal models"
    own: dict[int, Tensor] = {}
    initial_D = experiment.initial_D
    for number, clients in enumerate(took_part):
        task = experiment.tasks(replace(experiment.initial_state(), round=number))
        tasks = [
            replace(one, seed=one.seed / "personal", work=LocalWork(start_D=own.get(one.client, initial_D), whole=True))
            for one in map(task, clients)
        ]
        for result in experiment.personal.train(initial_D, tasks) if tasks else ():
            assert result.weights_D is not None, "the work asked for them"
            own[result.client] = result.weights_D if are_finite([result.weights_D])[0] else own.get(result.client, initial_D)
    return own


def values(experiment: Experiment, of_clients: Iterable[tuple[int, Tensor]]) -> dict[int, float]:
    """The task's headline of each client's model on the client's own held-out examples.

    Returns:
        client -> value, for the clients that have such an example.
    """
    found = dict[int, float]()
    # BatchNorm takes mean and deviation of the examples that it evaluates together, and one example has none.
    least = 2 if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in experiment.model.modules()) else 1
    for client, model_D in of_clients:
        rows_N = experiment.data.holdout_of(client)
        if len(rows_N) < least:
            continue
        index = torch.from_numpy(rows_N).to(experiment.x.device)
        outputs = experiment.logits(model_D.to(experiment.x.device), experiment.x[index])
        own = evaluation.client_values(experiment.task, outputs, experiment.y[index], np.zeros(len(rows_N), dtype=np.int64))
        found |= dict.fromkeys([client] if own else [], own.get(0, 0.0))
    return found


def spread(experiment: Experiment, state: ServerState) -> Spread | None:
    """The spread of the clients' own models after a round; None if there are none."""
    found = values(experiment, models(experiment, state))
    return evaluation.spread(list(found.values())) if found else None


def result(
    experiment: Experiment, own_models: Mapping[int, Tensor], of_global: Mapping[int, float], took_part: Iterable[Sequence[int]]
) -> PersonalResult | None:
    """The figures of the clients' own models at the end of a run, beside the global model and training alone.

    Args:
        experiment: the run.
        own_models: each client's own model after the last round.
        of_global: the global model's headline on the hold-out of each client.
        took_part: the clients of each round.

    Returns:
        None if the algorithm has no personal models, or no client has both one and a held-out example.
    """
    if experiment.personal is None:
        return None
    own = values(experiment, own_models.items())
    local = values(experiment, alone(experiment, took_part).items())
    everybody = range(len(experiment.data.clients))
    of = {"own": own, "global": dict(of_global), "local": local}
    # Only clients that have all three are compared, so that no mean is over easier clients than another.
    compared = [client for client in everybody if all(client in found for found in of.values())]
    if not compared:
        return None
    headline = next(iter(experiment.task.figures.values()))
    worst = min if headline.higher_is_better else max
    return PersonalResult(
        own=tuple(map(own.get, everybody)),
        local=tuple(map(local.get, everybody)),
        compared=len(compared),
        mean={name: float(np.mean([found[client] for client in compared])) for name, found in of.items()},
        worst={name: worst(found[client] for client in compared) for name, found in of.items()},
    )
