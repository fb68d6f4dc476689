"""Carries out an experiment and writes down every round of it, so that it can be resumed at any moment."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from privfl import evaluation, views
from privfl.config import ExperimentConfig
from privfl.errors import RunFolderError
from privfl.experiment import Experiment, assemble, deterministic
from privfl.privacy import accounting
from privfl.privacy.ledger import Entry, Ledger
from privfl.privacy.plan import ExamplePlan, Plan
from privfl.records import Environment, Evaluation, PartitionRecord, PrivacyResult, Result, RoundRecord, TimingRecord
from privfl.rounds import Outcome, ServerState, skip_reason
from privfl.runs import FORMAT, RunFolder, write_atomic, write_json

_PACKAGES = ("torch", "opacus", "dp-accounting", "cryptography", "numpy", "scipy", "pydantic")
_CURVE = np.concatenate([np.linspace(0, 2, 81), np.linspace(2.05, 20, 360)])

Observer = Callable[[RoundRecord, TimingRecord], None]


def run(config: ExperimentConfig, out: Path, *, resume: bool = False, observer: Observer | None = None) -> RunFolder:
    """Train, from the beginning or from where the folder stopped, and write everything down.

    Args:
        config: the resolved configuration.
        out: the run folder.
        resume: go on with the run in ``out``, which must have been begun with the same configuration; begin it where
            there is none.
        observer: called after each round, for progress.

    Raises:
        ConfigError, DataError, ModelError, RunFolderError, StorageError: one line each; what was written stays whole.
    """
    begun = resume and (out / "config.toml").exists()
    folder = RunFolder.open(out) if begun else RunFolder.reserve(out)
    with folder.locked(), deterministic():
        if begun:
            folder.require_same(config)
            if folder.finished:
                return folder
        experiment = assemble(config)
        if begun:
            folder.require_same_place(environment(experiment.x.device))
            folder.require_same_data(experiment.data.digest())
        else:
            _begin(folder, experiment)
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
            cost = outcome.aggregate.cost if outcome.aggregate else None
            timing = TimingRecord(
                round=state.round,
                train=outcome.train_seconds,
                aggregate_client=cost.client_seconds if cost else 0.0,
                aggregate_server=cost.server_seconds if cost else 0.0,
                evaluate=evaluated,
                total=time.perf_counter() - started,
            )
            self._commit(state, outcome, ledger, record, timing)
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
        would_be = ledger.epsilon_with(experiment.planned(round_number))
        if would_be <= plan.budget:
            return None
        return f"round {round_number} would bring ε to {would_be:.3f}, above the budget of {plan.budget:g}"

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

    def _commit(self, before: ServerState, outcome: Outcome, ledger: Ledger, record: RoundRecord, timing: TimingRecord) -> None:
        """Write a finished round: what was spent before what was seen, and the point to resume from last of all."""
        write_json(
            self.folder.path / "ledger.json",
            {"delta": ledger.delta, "entries": [entry.model_dump() for entry in ledger.entries]},
        )
        self._observe(before, outcome)
        self.folder.append(record, timing)
        state = outcome.state
        tensors = {"global_D": state.global_D, **{f"optimizer.{name}": value for name, value in state.optimizer.items()}}
        on_cpu = {name: value.cpu().contiguous() for name, value in tensors.items()}
        write_atomic(self.folder.path / "state.safetensors", save_tensors(on_cpu, metadata={"round": str(state.round)}))

    def _resume_point(self) -> tuple[ServerState, Ledger]:
        plan, initial = self.experiment.plan, self.experiment.initial_state()
        delta = plan.delta if isinstance(plan, ExamplePlan) else 0.0
        path = self.folder.path / "state.safetensors"
        if not path.exists():
            self.folder.rewind(0)
            return initial, Ledger(delta)
        try:
            with safe_open(path, framework="pt") as file:
                done = int(file.metadata()["round"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            written = json.loads((self.folder.path / "ledger.json").read_bytes())
            entries = [Entry.model_validate(entry) for entry in written["entries"] if entry["round"] < done]
            ledger = Ledger(written["delta"], entries)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            why = str(error).splitlines()[0]
            raise RunFolderError(f"{self.folder.path}: its state or ledger is damaged ({why}); begin it anew") from None
        self._require_whole(ledger, delta, done)
        self.folder.rewind(done)
        tensors = {name: value.to(self.experiment.x.device) for name, value in tensors.items()}
        global_D = tensors.pop("global_D")
        optimizer = {name.removeprefix("optimizer."): value for name, value in tensors.items()}
        return ServerState(done, global_D, optimizer), ledger

    def _require_whole(self, ledger: Ledger, delta: float, done: int) -> None:
        """The ledger must hold what was planned for every round that is done, no more and no less."""
        experiment, planned = self.experiment, Ledger(delta)
        if isinstance(experiment.plan, ExamplePlan):
            for number in range(done):
                if skip_reason(experiment.cohorts[number], experiment.aggregator) is None:
                    planned.record(number, experiment.planned(number))
        if ledger.delta != delta or ledger.entries != planned.entries:
            raise RunFolderError(f"{self.folder.path}: ledger.json is not what {done} rounds of this run spent; begin it anew")

    def _finish(self, state: ServerState, ledger: Ledger, last: Evaluation, stopped: str | None) -> None:
        experiment, data = self.experiment, self.experiment.data
        records = self.folder.rounds()
        uploads = sum(len(record.cohort) for record in records if record.skipped is None)
        named = {name: value.cpu().contiguous() for name, value in experiment.layout.unflatten(state.global_D).items()}
        write_atomic(self.folder.path / "model.safetensors", save_tensors(named))
        members = torch.from_numpy(np.flatnonzero(data.member_N)).to(experiment.x.device)
        train_logits = experiment.logits(state.global_D, experiment.x[members])
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


def _begin(folder: RunFolder, experiment: Experiment) -> None:
    data = experiment.data
    partition = PartitionRecord(
        clients=list(data.clients),
        classes=list(data.classes),
        counts=data.counts().tolist(),
        provenance=data.provenance,
        digest=data.digest(),
    )
    who = {"owner_N": data.owner_N, "candidate_N": data.candidate_N, "member_N": data.member_N}
    folder.begin(experiment.config, environment(experiment.x.device), who, partition)
