"""The only assembler: configuration -> objects, ready to be trained, priced, or trained again as a shadow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privfl import evaluation
from privfl.aggregators import Aggregator, RoundContext
from privfl.config import ExperimentConfig
from privfl.datasets import Dataset
from privfl.errors import ConfigError
from privfl.federated import FederatedData
from privfl.models import Model
from privfl.privacy import accounting
from privfl.privacy.accounting import Composition
from privfl.privacy.events import LocalTraining
from privfl.privacy.plan import ExamplePlan, Plan, plan_for
from privfl.privacy.sampling import draw_cohort
from privfl.rounds import Outcome, ServerState, run_round, skip_reason
from privfl.seeding import Seed
from privfl.servers import ServerOptimizer
from privfl.shelves import SHELVES
from privfl.training import LocalTask, Trainer
from privfl.vectors import Layout, to_vector

Contract = TypeVar("Contract")


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs, assembled; nothing has been trained yet.

    Args:
        config: the resolved configuration.
        seed: the root of all its streams.
        data: who has what, who is a member.
        x, y: the pool's N examples as tensors on the run's device.
        plan: what is promised, with its noise fixed.
        model: scratch space of the model's architecture, for evaluation; the trainer has its own.
        initial_D: the global model before the first round.
        trainer, aggregator, server: the items that do the work.
        cohorts: who takes part, round by round. Drawn beforehand: it depends on no data, and so the price of the whole
            run is known before it begins.
        fingerprint: of all settings that move the training. It goes into the streams of batches and noise, so that two
            runs with one seed and different settings do not share their noise: the difference of two such releases
            would have none.
    """

    config: ExperimentConfig
    seed: Seed
    data: FederatedData
    x: Tensor
    y: Tensor
    plan: Plan
    model: nn.Module
    initial_D: Tensor
    trainer: Trainer
    aggregator: Aggregator
    server: ServerOptimizer
    cohorts: tuple[tuple[int, ...], ...]
    fingerprint: str

    @property
    def layout(self) -> Layout:
        """Names and shapes of the model's parameters."""
        return Layout.of(self.model)

    def initial_state(self) -> ServerState:
        """What the first round begins with."""
        return ServerState(0, self.initial_D, self.server.init(self.initial_D))

    def tasks(self, round_number: int) -> list[LocalTask]:
        """What the cohort of that round trains on."""
        tasks = []
        sizes_K = self.data.sizes()
        for client in self.cohorts[round_number]:
            index = torch.from_numpy(self.data.members_of(client)).to(self.x.device)
            stream = self.seed / "round" / round_number / "client" / client / self.fingerprint
            tasks.append(LocalTask(client, int(sizes_K[client]), self.x[index], self.y[index], stream))
        return tasks

    def planned(self, round_number: int) -> dict[int, LocalTraining]:
        """What each client of that round's cohort is going to spend; the plan must be an example-level one."""
        assert isinstance(self.plan, ExamplePlan)
        sizes_K = self.data.sizes()
        return {client: self.plan.local_training(int(sizes_K[client])) for client in self.cohorts[round_number]}

    def step(self, state: ServerState) -> Outcome:
        """One round."""
        context = RoundContext(
            round=state.round,
            global_D=state.global_D,
            layout=self.layout,
            population=len(self.data.clients),
            rounding_key=(self.seed / "round" / state.round / "rounding").key(),
        )
        tasks = self.tasks(state.round)
        largest = int(self.data.sizes().max())
        return run_round(state, tasks, self.plan, self.trainer, self.aggregator, self.server, context, largest)

    def train(self) -> Tensor:
        """All rounds, without records: the final global model. This is how shadow models are trained."""
        state = self.initial_state()
        while state.round < self.config.rounds:
            state = self.step(state).state
        return state.global_D

    def shadow(self, index: int, member_N: NDArray[np.bool_]) -> Experiment:
        """The same procedure on another draw of the members, from its own randomness.

        Args:
            index: tells shadow models apart.
            member_N: the shadow's members among the pool.
        """
        seed = self.seed / "shadow" / index
        data = replace(self.data, member_N=member_N)
        return replace(
            self,
            seed=seed,
            data=data,
            initial_D=_initial_vector(self.config, data, seed).to(self.x.device),
            cohorts=_draw_cohorts(self.config, data, seed),
        )

    def logits(self, vector_D: Tensor, x: Tensor) -> Tensor:
        """The model's outputs at these parameters, shape (N, classes)."""
        return evaluation.logits(self.model, vector_D, x)


def assemble(config: ExperimentConfig, plan: Plan | None = None) -> Experiment:
    """Configuration -> objects.

    Args:
        config: the resolved configuration.
        plan: the plan where its noise is known already, as for a shadow model; calibrated anew otherwise.

    Raises:
        ConfigError, DataError, ModelError: something does not fit; nothing was trained.
    """
    seed = Seed(config.seed)
    device = _device(config.device)
    data = FederatedData.build(narrow(config.data, Dataset).load(), config.data, seed / "data")
    _require_cohort(config, len(data.clients))
    cohorts = _draw_cohorts(config, data, seed)
    aggregator = narrow(config.aggregator, Aggregator)
    plan = plan or calibrated(plan_for(config.privacy, config.training), config, data, cohorts, aggregator)
    # Images are evaluated twice as fast with channels last; no such model may be trained privately (training/opacus.py).
    model = build_model(config, data).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine = "opacus" if config.training.engine == "auto" else config.training.engine
    server = narrow(config.server, ServerOptimizer)
    return Experiment(
        config=config,
        seed=seed,
        data=data,
        x=torch.from_numpy(data.pool.x).to(device),
        y=torch.from_numpy(data.pool.y).to(device),
        plan=plan,
        model=model,
        initial_D=_initial_vector(config, data, seed).to(device),
        trainer=SHELVES["training.engine"].find(engine)(build_model(config, data).to(device), config.training, plan),
        aggregator=aggregator,
        server=server,
        cohorts=cohorts,
        fingerprint=_fingerprint(config, plan),
    )


def narrow(item: object, contract: type[Contract]) -> Contract:
    """The item as what its shelf's contract says it is; loading the configuration has made sure of it."""
    if not isinstance(item, contract):
        raise ConfigError(
            f"{type(item).__name__} does not derive from {contract.__module__}.{contract.__name__}; see its docstring"
        )
    return item


def build_model(config: ExperimentConfig, data: FederatedData) -> nn.Module:
    """The model that the configuration names, for inputs and classes of these data."""
    return narrow(config.model, Model).build(data.pool.x.shape[1:], len(data.classes))


def schedule(
    plan: ExamplePlan, data: FederatedData, cohorts: tuple[tuple[int, ...], ...], aggregator: Aggregator
) -> list[Composition]:
    """What each client will have gone through when all rounds are done."""
    rounds_K = np.zeros(len(data.clients), dtype=np.int64)
    for cohort in cohorts:
        if skip_reason(cohort, aggregator) is None:
            rounds_K[list(cohort)] += 1
    done = []
    for rounds, size in zip(rounds_K, data.sizes(), strict=True):
        event = plan.local_training(int(size))
        done.append(Composition(event.sample_rate, event.noise_multiplier, event.steps * int(rounds)))
    return done


def calibrated(
    plan: Plan,
    config: ExperimentConfig,
    data: FederatedData,
    cohorts: tuple[tuple[int, ...], ...],
    aggregator: Aggregator,
) -> Plan:
    """The plan with its noise fixed: the smallest that keeps every client within the target over the whole run."""
    if not isinstance(plan, ExamplePlan) or plan.noise_multiplier is not None:
        return plan
    assert config.privacy.kind == "example"
    assert config.privacy.target_epsilon is not None
    parts = [(part.sample_rate, part.steps) for part in schedule(plan.calibrated(1.0), data, cohorts, aggregator)]
    return plan.calibrated(accounting.calibrate(parts, config.privacy.target_epsilon, plan.delta))


@dataclass(frozen=True)
class Prices:
    """What a run will cost its clients, before it is run: ε by each accountant, the largest over the clients."""

    plan: ExamplePlan
    epsilon: float
    epsilon_rdp: float
    epsilon_as_papers: float
    epsilon_clients: tuple[float, ...]
    most_rounds: int
    smallest: int

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, for a table."""
        plan, spread = self.plan, evaluation.spread(self.epsilon_clients)
        above = f"  above 1/{self.smallest}, one over the smallest client: that client is hardly protected"
        return [
            ("protected", f"one {plan.unit}, from {', '.join(plan.adversaries)}; {plan.relation}"),
            ("noise multiplier", f"{plan.noise_multiplier:g} (clipping norm {plan.max_grad_norm:g})"),
            ("δ", f"{plan.delta:g}" + (above if plan.delta > 1 / self.smallest else "")),
            ("ε by PLD", f"{self.epsilon:.3f}  (headline, the largest over the clients)"),
            ("ε by RDP", f"{self.epsilon_rdp:.3f}"),
            ("ε as papers before 2020 report it", f"{self.epsilon_as_papers:.3f}"),
            ("ε over the clients", f"from {spread.minimum:.3f} to {spread.maximum:.3f}, median {spread.median:.3f}"),
            ("rounds of the busiest client", str(self.most_rounds)),
            ("budget", "none" if plan.budget is None else f"{plan.budget:g}"),
        ]


def account(config: ExperimentConfig) -> Prices:
    """What a configuration will cost, without training.

    Raises:
        ConfigError: nothing is promised, so nothing has a price; or as :func:`assemble`.
    """
    experiment = assemble(config)
    plan = experiment.plan
    if not isinstance(plan, ExamplePlan):
        raise ConfigError("privacy.kind = 'none': nothing is promised, so no ε exists; set privacy.kind = 'example'")
    done = schedule(plan, experiment.data, experiment.cohorts, experiment.aggregator)
    trained = [cohort for cohort in experiment.cohorts if skip_reason(cohort, experiment.aggregator) is None]
    rounds_K = np.bincount([client for cohort in trained for client in cohort], minlength=1)
    return Prices(
        plan=plan,
        epsilon=accounting.largest(done, lambda one: accounting.epsilon(one, plan.delta)),
        epsilon_rdp=accounting.largest(done, lambda one: accounting.epsilon_rdp(one, plan.delta)),
        epsilon_as_papers=accounting.largest(done, lambda one: accounting.epsilon_as_papers(one, plan.delta)),
        epsilon_clients=tuple(accounting.epsilon(one, plan.delta) for one in done),
        most_rounds=int(rounds_K.max()),
        smallest=int(experiment.data.sizes().min()),
    )


@contextmanager
def deterministic() -> Iterator[None]:
    """The same seed, the same bytes: one thread, deterministic kernels; the process is left as it was found.

    Sums are split over threads, so that results would depend on the number of cores. Runs are spread over processes
    instead (see the shadow models).
    """
    threads, algorithms = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(algorithms)


def _fingerprint(config: ExperimentConfig, plan: Plan) -> str:
    apart = {"name", "device", "evaluation", "records", "attacks"}
    return hashlib.sha256(repr((config.model_dump(exclude=apart), plan)).encode()).hexdigest()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device = 'cuda': PyTorch finds no GPU here; use 'cpu' or 'auto' (`privfl doctor` shows what it finds)"
        )
    return torch.device(name)


def _draw_cohorts(config: ExperimentConfig, data: FederatedData, seed: Seed) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(draw_cohort(config.cohort, len(data.clients), (seed / "cohort" / number).numpy()))
        for number in range(config.rounds)
    )


def _require_cohort(config: ExperimentConfig, clients: int) -> None:
    size = getattr(config.cohort, "size", None)
    if size is not None and size > clients:
        raise ConfigError(f"cohort.size = {size}: the data has {clients} clients; must be at most {clients}")


def _initial_vector(config: ExperimentConfig, data: FederatedData, seed: Seed) -> Tensor:
    with torch.random.fork_rng(devices=()):
        torch.set_rng_state((seed / "model").torch().get_state())
        return to_vector(build_model(config, data))
