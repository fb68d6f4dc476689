"""The inputs of a round, and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from privfl.federation.aggregators import Aggregate
from privfl.federation.client_states import ClientStates
from privfl.federation.clusters import Arrivals
from privfl.federation.lateness import Versions
from privfl.federation.server_state import ServerState
from privfl.federation.servers import State
from privfl.learning.training import LocalTask
from privfl.privacy.events import Event
from privfl.privacy.ledger import Account
from privfl.privacy.plans import PlanState
from privfl.processes import Processes


@dataclass(frozen=True)
class CohortTasks:
    """The clients of a round and their training tasks. A task is built only when it is needed."""

    clients: tuple[int, ...]
    task: Callable[[int], LocalTask]
    example: Tensor
    """Any one example, shape (1, ...); only its shape and type count."""

    def parts(self, parts: int, processes: Processes) -> list[list[LocalTask]]:
        """The tasks of one process, in parts of nearly the same size.

        The parts go to the processes one by one, the largest first, each to the process with the fewest clients so far.

        Args:
            parts: the number of parts of the whole cohort, at most the number of its clients.
            processes: the processes that carry out the round; the parts are those of the one that asks.
        """
        count = len(self.clients)
        parts = min(parts, count)
        cuts = [count * part // parts for part in range(parts + 1)]
        loads, mine = [0] * processes.size, list[int]()
        for part in sorted(range(parts), key=lambda part: cuts[part] - cuts[part + 1]):
            whose = loads.index(min(loads))
            loads[whose] += cuts[part + 1] - cuts[part]
            if whose == processes.rank:
                mine.append(part)
        return [[self.task(client) for client in self.clients[cuts[part] : cuts[part + 1]]] for part in sorted(mine)]


@dataclass(frozen=True)
class RoundOrder:
    """Message from the first process that begins a round at the others; the global model follows it separately.

    It holds the states that clients receive, the states of the cohort's clients, older global models that some of them trained
    from, and the run's noise domain.
    """

    round: int
    plan: PlanState
    noise_domain: str
    algorithm: State
    clients: ClientStates
    versions: Versions = field(default_factory=dict)
    transform: State = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a round.

    Args:
        state: the state that the next round begins with.
        losses: each client's mean training loss; empty if nobody trained.
        aggregate: None if nothing was aggregated.
        participants: clients that contributed, ascending, stand-ins included.
        events: the privacy events for the ledger, by account.
        clipped_share: share of gradients, or of updates, that were longer than the clipping norm; None if nothing is clipped.
        zeroed: the number of gradients or updates that were not finite and counted as zeros.
        skipped: the reason why the model did not change: nobody trained, or too few survived the aggregation.
        train_seconds: training time of the whole cohort.
        processes: the number of processes that had clients to train.
        arrivals: who filled which slot, if there are several global models.
    """

    state: ServerState
    losses: Sequence[float]
    aggregate: Aggregate | None
    participants: Sequence[int]
    events: dict[Account, Event]
    clipped_share: float | None
    zeroed: int
    skipped: str | None
    train_seconds: float
    processes: int
    arrivals: Arrivals | None = None
