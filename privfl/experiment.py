"""The only assembler: configuration -> objects -> rounds -> run folder."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from privfl import evaluation, views
from privfl.aggregators import Aggregator, RoundContext
from privfl.config import SHELVES, ExperimentConfig
from privfl.datasets import Dataset
from privfl.errors import ConfigError, RunFolderError
from privfl.federated import FederatedData
from privfl.models import Model
from privfl.privacy import accounting
from privfl.privacy.accounting import Composition
from privfl.privacy.ledger import Entry, Ledger
from privfl.privacy.plan import ExamplePlan, Plan, plan_for
from privfl.privacy.sampling import draw_cohort
from privfl.rounds import Outcome, ServerState, run_round, skip_reason
from privfl.runs import (
    FORMAT,
    Environment,
    Evaluation,
    PartitionRecord,
    PrivacyResult,
    Result,
    RoundRecord,
    RunFolder,
    TimingRecord,
    write_atomic,
    write_json,
)
from privfl.seeding import Seed
from privfl.servers import ServerOptimizer
from privfl.training import LocalTask, Trainer
from privfl.vectors import Layout, to_vector

_PACKAGES = ("torch", "opacus", "dp-accounting", "cryptography", "numpy", "scipy", "pydantic")
_CURVE = np.concatenate([np.linspace(0, 2, 81), np.linspace(2.05, 20, 360)])

Contract = TypeVar("Contract")
Observer = Callable[[RoundRecord, TimingRecord], None]


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs, assembled; nothing has been trained yet.

    Args:
        config: the resolved configuration.
        seed: the root of all its streams.
        data: who has what, who is a member.
        x, y: the pool's N examples as tensors on the run's device.
        plan: what is promised, with its noise fixed.
        model: scratch space of the model's architecture.
        initial_D: the global model before the first round.
        trainer, aggregator, server: the items that do the work.
        cohorts: who takes part, round by round. Drawn beforehand: it depends on no data, and so the price of the whole
            run is known before it begins.
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
        for client in self.cohorts[round_number]:
            index = torch.from_numpy(self.data.members_of(client)).to(self.x.device)
            stream = self.seed / "round" / round_number / "client" / client
            tasks.append(LocalTask(client, self.x[index], self.y[index], stream))
        return tasks

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
        sizes = np.bincount(self.data.owner_N[self.data.member_N])
        return run_round(state, tasks, self.plan, self.trainer, self.aggregator, self.server, context, int(sizes.max()))

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
    model = build_model(config, data).to(device, memory_format=torch.channels_last)
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
        trainer=SHELVES["training.engine"].find(engine)(model, config.training, plan),
        aggregator=aggregator,
        server=server,
        cohorts=cohorts,
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
    for client, rounds in enumerate(rounds_K):
        event = plan.local_training(len(data.members_of(client)))
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

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, for a table."""
        plan, spread = self.plan, evaluation.spread(self.epsilon_clients)
        return [
            ("protected", f"one {plan.unit}, from {', '.join(plan.adversaries)}; {plan.relation}"),
            ("noise multiplier", f"{plan.noise_multiplier:g} (clipping norm {plan.max_grad_norm:g})"),
            ("δ", f"{plan.delta:g}"),
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
    taking_part = np.bincount(np.concatenate([np.array(cohort, dtype=np.int64) for cohort in experiment.cohorts]), minlength=1)
    return Prices(
        plan=plan,
        epsilon=accounting.largest(done, lambda one: accounting.epsilon(one, plan.delta)),
        epsilon_rdp=accounting.largest(done, lambda one: accounting.epsilon_rdp(one, plan.delta)),
        epsilon_as_papers=accounting.largest(done, lambda one: accounting.epsilon_as_papers(one, plan.delta)),
        epsilon_clients=tuple(accounting.epsilon(one, plan.delta) for one in done),
        most_rounds=int(taking_part.max()),
    )


def run(config: ExperimentConfig, out: Path, *, resume: bool = False, observer: Observer | None = None) -> RunFolder:
    """Train, from the beginning or from where the folder stopped, and write everything down.

    Args:
        config: the resolved configuration.
        out: the run folder.
        resume: continue the run in ``out``, which must have been begun with the same configuration.
        observer: called after each round, for progress.

    Raises:
        ConfigError, DataError, ModelError, RunFolderError, StorageError: one line each; what was written stays whole.
    """
    if resume:
        folder = RunFolder.open(out)
        folder.require_same(config)
        if folder.finished:
            return folder
    with deterministic():
        experiment = assemble(config)
        if not resume:
            folder = RunFolder.create(out, config, environment(experiment.x.device))
            _write_data(folder, experiment.data)
        _Recorder(experiment, folder).run(observer)
    return folder


@dataclass
class _Recorder:
    """Carries out an experiment and writes down every round of it."""

    experiment: Experiment
    folder: RunFolder

    def __post_init__(self) -> None:
        data, device = self.experiment.data, self.experiment.x.device
        self.test_x, self.test_y = torch.from_numpy(data.test.x).to(device), torch.from_numpy(data.test.y).to(device)
        self.holdout_N = np.flatnonzero(~data.member_N)

    def run(self, observer: Observer | None) -> None:
        plan, config = self.experiment.plan, self.experiment.config
        state, ledger = self._resume_point()
        last: Evaluation | None = None
        stopped: str | None = None
        while state.round < config.rounds:
            stopped = self._over_budget(state.round, ledger)
            if stopped is not None:
                break
            started = time.perf_counter()
            outcome = self.experiment.step(state)
            if isinstance(plan, ExamplePlan):
                ledger.record(state.round, outcome.events)
            done = outcome.state.round
            evaluating = time.perf_counter()
            due = done % config.evaluation.every == 0 or done == config.rounds
            last = self._evaluate(outcome.state.global_D) if due else None
            evaluated = time.perf_counter() - evaluating
            record = self._record(state.round, outcome, ledger, last)
            self._observe(state, outcome)
            cost = outcome.aggregate.cost if outcome.aggregate else None
            timing = TimingRecord(
                round=state.round,
                train=outcome.train_seconds,
                aggregate_client=cost.client_seconds if cost else 0.0,
                aggregate_server=cost.server_seconds if cost else 0.0,
                evaluate=evaluated,
                total=time.perf_counter() - started,
            )
            self._commit(outcome.state, ledger, record, timing)
            state = outcome.state
            if observer is not None:
                observer(record, timing)
        self._finish(state, ledger, last or self._evaluate(state.global_D), stopped)

    def _over_budget(self, round_number: int, ledger: Ledger) -> str | None:
        """Why the next round must not begin; None where it may."""
        experiment = self.experiment
        plan = experiment.plan
        if not isinstance(plan, ExamplePlan) or plan.budget is None:
            return None
        cohort = experiment.cohorts[round_number]
        if skip_reason(cohort, experiment.aggregator) is not None:
            return None
        events = {client: plan.local_training(len(experiment.data.members_of(client))) for client in cohort}
        would_be = ledger.epsilon_with(events)
        if would_be <= plan.budget:
            return None
        return f"round {round_number} would bring ε to {would_be:.3f}, above the budget of {plan.budget:g}; the run ended before it"

    def _evaluate(self, global_D: Tensor) -> Evaluation:
        experiment = self.experiment
        test_logits = experiment.logits(global_D, self.test_x)
        index = torch.from_numpy(self.holdout_N).to(experiment.x.device)
        holdout_logits = experiment.logits(global_D, experiment.x[index])
        return Evaluation(
            accuracy=evaluation.accuracy(test_logits, self.test_y),
            loss=evaluation.mean_loss(test_logits, self.test_y),
            clients=evaluation.client_spread(holdout_logits, experiment.y[index], experiment.data.owner_N[self.holdout_N]),
        )

    def _record(self, round_number: int, outcome: Outcome, ledger: Ledger, evaluated: Evaluation | None) -> RoundRecord:
        results, aggregate = outcome.results, outcome.aggregate
        private = isinstance(self.experiment.plan, ExamplePlan)
        return RoundRecord(
            round=round_number,
            cohort=list(self.experiment.cohorts[round_number]),
            skipped=outcome.skipped,
            train_loss=float(np.mean([result.loss for result in results])) if results else None,
            clipped_share=float(np.mean([result.clipped_share for result in results])) if results and private else None,
            clipped_coordinates=aggregate.clipped if aggregate else 0,
            epsilon=ledger.epsilon() if private else None,
            bytes_up=aggregate.cost.bytes_up if aggregate else 0,
            bytes_down=aggregate.cost.bytes_down if aggregate else 0,
            evaluation=evaluated,
        )

    def _observe(self, state: ServerState, outcome: Outcome) -> None:
        if self.experiment.config.records.views == "all":
            participants = [result.client for result in outcome.results]
            seen = outcome.aggregate.seen if outcome.aggregate else {}
            views.observe(self.folder, state.round, state.global_D, participants, seen)

    def _commit(self, state: ServerState, ledger: Ledger, record: RoundRecord, timing: TimingRecord) -> None:
        self.folder.append(record, timing)
        write_json(
            self.folder.path / "ledger.json",
            {"delta": ledger.delta, "entries": [entry.model_dump() for entry in ledger.entries]},
        )
        tensors = {"global_D": state.global_D, **{f"optimizer.{name}": value for name, value in state.optimizer.items()}}
        on_cpu = {name: value.cpu().contiguous() for name, value in tensors.items()}
        # Last of all: from here on the round is done.
        write_atomic(self.folder.path / "state.safetensors", save_tensors(on_cpu, metadata={"round": str(state.round)}))

    def _resume_point(self) -> tuple[ServerState, Ledger]:
        plan, initial = self.experiment.plan, self.experiment.initial_state()
        delta = plan.delta if isinstance(plan, ExamplePlan) else 0.0
        path = self.folder.path / "state.safetensors"
        if not path.exists():
            self.folder.rewind(0)
            return initial, Ledger(delta)
        device = self.experiment.x.device
        with safe_open(path, framework="pt") as file:
            done = int(file.metadata()["round"])
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
        self.folder.rewind(done)
        global_D = tensors.pop("global_D")
        if global_D.shape != initial.global_D.shape:
            raise RunFolderError(
                f"{path}: holds a model of {len(global_D)} parameters, not {len(initial.global_D)}; run its config.toml again"
            )
        entries = json.loads((self.folder.path / "ledger.json").read_bytes())["entries"]
        ledger = Ledger(delta, [Entry.model_validate(entry) for entry in entries if entry["round"] < done])
        optimizer = {name.removeprefix("optimizer."): value for name, value in tensors.items()}
        return ServerState(done, global_D, optimizer), ledger

    def _finish(self, state: ServerState, ledger: Ledger, last: Evaluation, stopped: str | None) -> None:
        experiment, data = self.experiment, self.experiment.data
        records = self.folder.rounds()
        members = torch.from_numpy(np.flatnonzero(data.member_N)).to(experiment.x.device)
        train_logits = experiment.logits(state.global_D, experiment.x[members])
        uploads = sum(len(record.cohort) for record in records if record.skipped is None)
        named = {name: value.cpu().contiguous() for name, value in experiment.layout.unflatten(state.global_D).items()}
        write_atomic(self.folder.path / "model.safetensors", save_tensors(named))
        self.folder.write(
            "result.json",
            Result(
                rounds=state.round,
                stopped=stopped,
                parameters=experiment.layout.size,
                evaluation=last,
                train_accuracy=evaluation.accuracy(train_logits, experiment.y[members]).value,
                privacy=privacy_result(experiment.plan, ledger, len(data.clients)),
                hides_updates=experiment.aggregator.hides_updates,
                bytes_up=sum(record.bytes_up for record in records),
                bytes_down=sum(record.bytes_down for record in records),
                # A float32 for each parameter, and one for the weight.
                bytes_plain=uploads * 4 * (experiment.layout.size + 1),
            ),
        )


def privacy_result(plan: Plan, ledger: Ledger, clients: int) -> PrivacyResult | None:
    """What was promised, priced from the ledger alone; None where nothing was."""
    if not isinstance(plan, ExamplePlan):
        return None
    assert plan.noise_multiplier is not None
    return PrivacyResult(
        unit=plan.unit,
        relation=plan.relation,
        sampler=plan.sampler,
        adversaries=list(plan.adversaries),
        delta=plan.delta,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.max_grad_norm,
        epsilon=ledger.epsilon(),
        epsilon_rdp=ledger.epsilon_rdp(),
        epsilon_clients=ledger.clients(clients),
        budget=plan.budget,
        curve_epsilon=_CURVE.tolist(),
        curve_delta=accounting.curve(ledger.compositions(), _CURVE).tolist(),
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


def environment(device: torch.device) -> Environment:
    """The machine and the versions that this process runs on."""
    packages: Mapping[str, str] = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return Environment(
        format=FORMAT,
        privfl=importlib.metadata.version("privfl"),
        python=platform.python_version(),
        platform=platform.platform(),
        processor=platform.processor() or platform.machine(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        packages=dict(packages),
    )


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


def _write_data(folder: RunFolder, data: FederatedData) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, owner_N=data.owner_N, candidate_N=data.candidate_N, member_N=data.member_N)
    write_atomic(folder.path / "membership.npz", buffer.getvalue())
    folder.write(
        "partition.json",
        PartitionRecord(
            clients=list(data.clients), classes=list(data.classes), counts=data.counts().tolist(), provenance=data.provenance
        ),
    )
