"""The state between two rounds, and the part of it with which a client begins a round."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from privfl.federation.algorithms import Algorithm, Begun, State, Terms
from privfl.federation.client_states import ClientState, ClientStates
from privfl.federation.lateness import Versions
from privfl.learning.training import LocalTask, LocalWork, Trainer
from privfl.privacy.plans import PlanState


@dataclass(frozen=True)
class ServerState:
    """The server's state between two rounds.

    Args:
        round: the number of the next round, from 0.
        global_D: the global model; if there are several, they stand one after another.
        optimizer: the state of the server optimizer.
        plan: the state of the privacy plan.
        algorithm: the state of the federated algorithm.
        clients: the clients' own states. A simulation keeps them here; a real server has none of them.
        versions: older global models that clients of later rounds trained from, by the round that began with each.
        transform: the public state of the transform.
    """

    round: int
    global_D: Tensor
    optimizer: State
    plan: PlanState
    algorithm: State = field(default_factory=dict)
    clients: ClientStates = field(default_factory=dict)
    versions: Versions = field(default_factory=dict)
    transform: State = field(default_factory=dict)


def told_of(algorithm: Algorithm, state: ServerState) -> State:
    """The part of the algorithm's state that clients receive."""
    return {name: state.algorithm[name] for name in algorithm.told}


def state_of_client(algorithm: Algorithm, state: ServerState, client: int) -> ClientState:
    """The state that a client begins the round with."""
    found = state.clients.get(client)
    return found if found is not None else ClientState(algorithm.client_init(state.global_D))


def personal_state(algorithm: Algorithm, state: ServerState, client: int) -> State:
    """The personal state that a client begins the round with, on the device of the global model."""
    found = state.clients.get(client)
    named = found.personal if found is not None else algorithm.personal_init(state.global_D)
    return {name: value.to(state.global_D.device) for name, value in named.items()}


def begun(algorithm: Algorithm, state: ServerState, task: LocalTask, trainer: Trainer, terms: Terms) -> Begun:
    """The beginning of a client's training in a round, without its personal state.

    Args:
        algorithm: the algorithm.
        state: the state that the round begins with.
        task: the client's task.
        trainer: carries out its works.
        terms: the public numbers.
    """
    kept, private = state_of_client(algorithm, state, task.client).kept, trainer.plan.dp_sgd
    whole = trainer.plain_steps(replace(task, work=LocalWork())) if private is None else private.planned(task.size).steps

    def batches(steps: int) -> tuple[Tensor, ...]:
        return tuple(trainer.plain_batches(replace(task, work=LocalWork(steps=steps))))

    return Begun(
        global_D=state.global_D,
        told=told_of(algorithm, state),
        kept={name: value.to(state.global_D.device) for name, value in kept.items()},
        work=task.work,
        steps=whole if task.work.steps is None else task.work.steps,
        terms=terms,
        batches=batches if private is None else None,
        took_part=task.client in state.clients,
    )
