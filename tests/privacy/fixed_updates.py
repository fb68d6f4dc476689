"""One round of a client-level plan with updates that are given, not trained: what is released, before and after noise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, Cost, RoundContext
from privfl.federation.aggregators.mean import Mean
from privfl.federation.algorithms import Algorithm, Terms
from privfl.federation.algorithms.fedavg import FedAvg as FedAvgAlgorithm
from privfl.federation.behaviours import Behaviour
from privfl.federation.behaviours.honest import Honest
from privfl.federation.outcome import CohortTasks, Outcome
from privfl.federation.payload import PayloadLayout
from privfl.federation.rounds import Round
from privfl.federation.server_state import ServerState
from privfl.federation.servers.fedavg import FedAvg
from privfl.federation.transforms import Transform
from privfl.federation.transforms.identity import Identity
from privfl.learning.training import LocalResult, LocalTask, Trainer
from privfl.privacy.client_plans import ClientPlan
from privfl.privacy.plans.client_central import CentralPlan
from privfl.privacy.plans.client_distributed import DistributedPlan
from privfl.privacy.plans.client_dpftrl import DpftrlPlan
from privfl.privacy.plans.client_local import LocalPlan
from privfl.privacy.plans.none import NoPlan
from privfl.privacy.streams import RandomStream
from privfl.seeding import Seed
from privfl.vectors import Layout

LAYOUT = Layout(("weight", "bias"), ((5, 4), (4,)))
D = LAYOUT.size
POPULATION = 12
CLIP = 0.5
SIZES = (1, 900)
"""Sizes of clients, the first by far the smallest: a weight by size would show."""

SHARED: dict[str, Any] = {
    "noise_multiplier": 1e-9,
    "max_update_norm": CLIP,
    "delta": 1e-3,
    "budget": None,
    "scheme": "flat",
    "randomness": "seeded",
}


def central(**changes: Any) -> CentralPlan:
    settings = {"sampler": "poisson", "population": POPULATION, "size": 4, "names_cohort": False}
    return CentralPlan(**{**SHARED, **settings, **changes})


def local(**changes: Any) -> LocalPlan:
    return LocalPlan(**{**SHARED, **changes})


def dpftrl(**changes: Any) -> DpftrlPlan:
    settings = {"factorization": "banded", "bands": 3, "rounds": 12, "separation": 3, "size": 4}
    return DpftrlPlan(**{**SHARED, **settings, **changes})


def distributed(**changes: Any) -> DistributedPlan:
    settings = {"mechanism": "skellam", "bits": 24, "survivors": 3, "dimension": D, "clients": POPULATION}
    return DistributedPlan(**{**SHARED, "noise_multiplier": 0.5, **settings, **changes})


class Scripted(Trainer):
    """Hands in what it was given."""

    def __init__(self, deltas: Mapping[int, Tensor]) -> None:
        super().__init__(nn.Identity(), TrainingConfig(local_steps=1, batch_size=1, lr=1.0), NoPlan())
        self.deltas = deltas

    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        return [LocalResult(task.client, self.deltas[task.client], 0.0, 0.0, None, 0, 1, 1.0) for task in tasks]


class CodedSum(Aggregator):
    """The sum of the codec's words modulo 2^bits, without masks; ``lost`` clients are not in it."""

    lost: tuple[int, ...] = ()

    hides_updates = True
    linear = True
    uses_codec = True

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        codec = context.codec
        assert codec is not None
        sum_L = np.zeros(codec.length, np.uint64)
        survivors = [update for update in updates if update.client not in self.lost]
        for update in survivors:
            own = Seed(int.from_bytes(context.noise_key, "big")) / update.client
            rounding, noise = (RandomStream((own / name).key()) for name in ("rounding", "noise"))
            sum_L += codec.encode(update.delta_D.numpy(), rounding, noise)
        sum_D = torch.from_numpy(codec.decode((sum_L % (1 << codec.bits)).astype(np.uint32)))
        arrived = tuple(update.client for update in survivors)
        mean_D = sum_D.float() / max(len(survivors), 1)
        return Aggregate(mean_D, sum_D, float(len(survivors)), arrived, Cost(0, 0, 0.0, 0.0), 0, {})


class Lossy(Mean):
    """The mean in the clear over those who are not ``lost``; of nobody where all are, as where too few survive."""

    lost: tuple[int, ...] = ()

    linear = True

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        left = [update for update in updates if update.client not in self.lost]
        if not left:
            return Aggregate(None, None, 0.0, (), Cost(0, 0, 0.0, 0.0), 0, {}, failed="nobody was left")
        return super().aggregate(left, context)

    def collect(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        return self.aggregate(updates, context)


def play(
    plan: ClientPlan,
    deltas: Mapping[int, Tensor],
    *,
    seed: Seed = Seed(5),  # noqa: B008
    number: int = 0,
    aggregator: Aggregator | None = None,
    state: ServerState | None = None,
    algorithm: Algorithm = FedAvgAlgorithm(kind="fedavg"),  # noqa: B008
    behaviour: Behaviour = Honest(kind="honest"),  # noqa: B008
    transform: Transform = Identity(kind="identity"),  # noqa: B008
) -> Outcome:
    """One round; with FedAvg from zero the new global model is the mean update. A step is of rate 1, and the only one."""
    zero_D, payload = torch.zeros(D), PayloadLayout(algorithm.parts(LAYOUT), LAYOUT)
    shared = transform.init(payload.joined, seed)
    begin = state or ServerState(
        number, zero_D, {}, plan.initial(torch.device("cpu")), algorithm.init(zero_D), transform=shared
    )
    name = seed / "round" / number

    def task(client: int) -> LocalTask:
        x, y = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
        return LocalTask(client, SIZES[min(client, 1)], InputStore(x), y, torch.arange(1), name / "client" / client)

    coded = isinstance(plan, DistributedPlan)
    context = RoundContext(
        round=number,
        global_D=begin.global_D,
        layout=transform.message(payload.joined),
        population=POPULATION,
        simulation_key=bytes(32),
        run="tests",
        codec=plan.codec(bytes(32)) if isinstance(plan, DistributedPlan) else None,
        noise_key=(name / "shares").key(),
    )
    one = Round(
        plan=plan,
        trainer=Scripted(deltas),
        algorithm=algorithm,
        payload=payload,
        terms=Terms(1.0, 1, LAYOUT),
        behaviour=behaviour,
        misbehaving=frozenset(deltas if behaviour.kind != "honest" else ()),
        aggregator=aggregator or (CodedSum(kind="coded") if coded else Mean(kind="mean")),
        server=FedAvg(kind="fedavg"),
        largest_client=max(SIZES),
        population=POPULATION,
        stream=name / "server",
        noise_domain="scripted",
        transform=transform,
        public=name / "transform",
    )
    return one.run(begin, CohortTasks(tuple(sorted(deltas)), task, torch.zeros(1, 1)), context)


def released(plan: ClientPlan, deltas: Mapping[int, Tensor], **changes: Any) -> Tensor:
    """The sum that is released, in float64: the step times the plan's denominator."""
    outcome = play(plan, deltas, **changes)
    return outcome.state.global_D.double() * denominator(plan, deltas)


def denominator(plan: ClientPlan, deltas: Mapping[int, Tensor]) -> float:
    """A fixed number where cohorts are secret; else how many took part, which is public."""
    return float(getattr(plan, "size", 0) or max(len(deltas), 1))


def loud(plan: ClientPlan, noise_multiplier: float) -> ClientPlan:
    """The same plan with that noise."""
    return replace(plan, noise_multiplier=noise_multiplier)


def updates(count: int, seed: int = 0, scale: float = 3.0) -> dict[int, Tensor]:
    """Random updates of the first so many clients, most of them longer than the norm."""
    draw = np.random.default_rng(seed)
    rows = [draw.normal(size=D) * scale * draw.exponential() for _ in range(count)]
    return {client: torch.from_numpy(row.astype(np.float32)) for client, row in enumerate(rows)}
