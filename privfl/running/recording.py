"""Recording: carries out an experiment and writes every round into the run folder, so that the run can be resumed."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, ProcessError, RunFolderError
from privfl.federation.outcome import Outcome
from privfl.federation.server_state import ServerState
from privfl.learning import evaluation
from privfl.learning.models._build import constants
from privfl.privacy.ledger import Entry, Ledger
from privfl.processes import ALONE, Processes
from privfl.records import Environment, Evaluation, Interval, PartitionRecord, Result, RoundRecord, TimingRecord
from privfl.running import attacking, clusters, personal, poisoning, views
from privfl.running.assembling import assemble, new_secret
from privfl.running.calibration import empty_ledger
from privfl.running.determinism import deterministic
from privfl.running.doubts import doubts
from privfl.running.experiment import Experiment
from privfl.running.kept_state import read_state, write_state
from privfl.running.pricing import privacy_result, require_finite_prices
from privfl.running.run_folder import FORMAT, RunFolder
from privfl.running.stopping import reached
from privfl.seeding import Seed
from privfl.storage import append_line, write_atomic

_PACKAGES = ("torch", "opacus", "dp-accounting", "cryptography", "numpy", "scipy", "pydantic")

_SECRET = "noise.key"
"""The root of noise that comes from the operating system.

It is kept while the run goes on. An unfinished round is then computed again from the same draws and releases nothing twice. It
is removed at the end, so that nobody can subtract the noise afterwards.
"""
# The number of members, evenly spaced, on which accuracy is measured. A pass over all members would take as long as several
# rounds.
_MEMBERS = 4_000

RoundObserver = Callable[[RoundRecord, TimingRecord], None]


def run(
    config: ExperimentConfig,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: RoundObserver | None = None,
    processes: Processes = ALONE,
    warn: Callable[[str], None] | None = None,
) -> RunFolder:
    """Train from the beginning, or from the point at which the folder stopped, and write all records.

    Args:
        config: the resolved configuration.
        out: the run folder.
        resume: continue the run in ``out``, which must have the same configuration; begin it if there is none.
        overwrite: replace the run in ``out`` as soon as the new one is sure to begin.
        observer: called after each round, for progress.
        processes: the processes that carry out the run together. This is the first; the others call :func:`assist`.
        warn: called before the first round with each sentence about a setting that is legal and hardly meant.

    Raises:
        ConfigError, DataError, ModelError, RunFolderError, StorageError: the run cannot begin or continue. The folder stays
            readable.
        ProcessError: another process has ended. The folder stays readable.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite: contradict each other; give one of them")
    with _releasing_others(processes):
        return _run(config, Path(out), resume, overwrite, observer, processes, warn)


def assist(config: ExperimentConfig, processes: Processes) -> None:
    """Do another process' part of a run: train the clients that the first process assigns, and write nothing."""
    root: int | None = processes.broadcast()
    if root is None:
        return
    with deterministic():
        assemble(config, secret=Seed(root), processes=processes).assist()


@contextmanager
def _releasing_others(processes: Processes) -> Iterator[None]:
    """Release the other processes at the end of the run, even after an error."""
    try:
        yield
    except ProcessError:
        raise
    except BaseException:
        with suppress(ProcessError):
            processes.broadcast(None)
        raise
    processes.broadcast(None)


def _run(
    config: ExperimentConfig,
    out: Path,
    resume: bool,
    overwrite: bool,
    observer: RoundObserver | None,
    processes: Processes,
    warn: Callable[[str], None] | None,
) -> RunFolder:
    if resume and (out / "config.toml").exists():
        return _resumed(RunFolder.open(out), config, observer, processes)
    with RunFolder.reserving(out, overwrite) as folder, deterministic():
        secret = new_secret()
        processes.broadcast(secret.root)
        experiment = assemble(config, secret=secret, processes=processes)
        require_finite_prices(experiment)
        attacking.require_possible(experiment)
        if overwrite:
            folder.clear()
        if warn is not None:
            for sentence in doubts(experiment):
                warn(sentence)
        _begin(folder, experiment)
        _Recorder(experiment, folder).run(observer)
    return folder


def _resumed(folder: RunFolder, config: ExperimentConfig, observer: RoundObserver | None, processes: Processes) -> RunFolder:
    with folder.locked(), deterministic():
        folder.require_same(config)
        if folder.finished:
            (folder.path / _SECRET).unlink(missing_ok=True)
            return folder
        secret = _stored_secret(folder) or new_secret()
        processes.broadcast(secret.root)
        experiment = assemble(config, secret=secret, processes=processes)
        folder.require_same_environment(environment(experiment.x.device))
        folder.require_same_data(experiment.data.digest())
        folder.require_same_constants(constants(experiment.model))
        _Recorder(experiment, folder).run(observer)
    return folder


@dataclass
class _Recorder:
    """Recorder: carries out an experiment and writes the records of every round."""

    experiment: Experiment
    folder: RunFolder

    def __post_init__(self) -> None:
        self.holdout_N = np.flatnonzero(self.experiment.data.held_out())

    def run(self, observer: RoundObserver | None) -> None:
        config = self.experiment.config
        state, ledger = self._resume_point()
        last: Evaluation | None = None
        stopped = self._stopped_before(state.round)
        self.losses = [record.validation_loss for record in self.folder.rounds()] if state.round else []
        while stopped is None and state.round < config.rounds:
            stopped = self._over_budget(state.round, ledger)
            if stopped is not None:
                break
            started = time.perf_counter()
            views = config.records.views
            transcript = self.folder.path if views == "all" else None
            outcome = self.experiment.step(state, observed=views != "final", transcript=transcript)
            ledger.record(state.round, outcome.events)
            done = outcome.state.round
            evaluating = time.perf_counter()
            due = done % config.evaluation.every == 0 or done == config.rounds
            last = self._evaluate(outcome.state) if due else None
            evaluated = time.perf_counter() - evaluating
            record = self._record(state, outcome, ledger, last)
            cost = outcome.aggregate.cost if outcome.aggregate else None
            timing = TimingRecord(
                round=state.round,
                processes=outcome.processes,
                train=outcome.train_seconds,
                aggregate_client=cost.client_seconds if cost else 0.0,
                aggregate_server=cost.server_seconds if cost else 0.0,
                evaluate=evaluated,
                total=time.perf_counter() - started,
                stages=list(outcome.aggregate.stages) if outcome.aggregate else [],
            )
            self._commit(state, outcome, record, timing)
            state, stopped = outcome.state, record.stopped
            if observer is not None:
                observer(record, timing)
        self._finish(state, ledger, last or self._evaluate(state), stopped)

    def _stopped_before(self, rounds: int) -> str | None:
        """The reason why the run ended with the last of that many rounds, if a crash came before the end was written."""
        return self.folder.rounds()[-1].stopped if rounds else None

    def _over_budget(self, round_number: int, ledger: Ledger) -> str | None:
        """The reason why the next round would exceed the budget; None if it may begin."""
        plan, events = self.experiment.plan, self.experiment.planned(round_number)
        if plan.budget is None or not events:
            return None
        would_be = ledger.epsilon_with(events)
        if would_be <= plan.budget:
            return None
        return f"round {round_number} would bring ε to {would_be:.3f}, above the budget of {plan.budget:g}"

    def _evaluate(self, state: ServerState) -> Evaluation:
        experiment = self.experiment
        self.places_K, data = clusters.places(experiment, state), experiment.data
        test_logits = clusters.outputs(experiment, state, experiment.test_x, None, data.test_clients(), self.places_K)
        index = torch.from_numpy(self.holdout_N).to(experiment.x.device)
        holdout_logits = clusters.outputs(experiment, state, experiment.x, index, data.owner_N, self.places_K)
        owner_N, self.of_groups = data.owner_N[self.holdout_N], self._groups(test_logits)
        self.of_clients = evaluation.client_values(experiment.task, holdout_logits, experiment.y[index], owner_N)
        return Evaluation(
            metrics=experiment.task.metrics(test_logits, experiment.test_y),
            clients=evaluation.spread(list(self.of_clients.values())) if self.of_clients else None,
            personal=personal.spread(experiment, state),
            attack_success=poisoning.success(experiment, state, self.places_K),
        )

    def _groups(self, outputs: Tensor) -> dict[str, Interval]:
        """The headline in each group of the test split that the data name, from the outputs on the whole split."""
        experiment, origin_T = self.experiment, self.experiment.data.test_origin_T
        found = dict[str, Interval]()
        for place, name in enumerate(experiment.data.test_origins if origin_T is not None else ()):
            rows = torch.from_numpy(np.flatnonzero(origin_T == place)).to(outputs.device)
            if len(rows):
                found[name] = next(iter(experiment.task.metrics(outputs[rows], experiment.test_y[rows]).values()))
        return found

    def _record(self, state: ServerState, outcome: Outcome, ledger: Ledger, evaluated: Evaluation | None) -> RoundRecord:
        aggregate = outcome.aggregate
        # Under privacy, an example whose loss overflows must not end the run. Its loss is left out of the mean.
        losses = [loss for loss in outcome.losses if math.isfinite(loss)]
        self.losses.append(self.experiment.validation_loss(outcome))
        lost = f"round {state.round} was lost: {aggregate.failed}" if aggregate and aggregate.ends_run else None
        turn = self.experiment.timetable.turns[state.round]
        return RoundRecord(
            round=state.round,
            streams=(self.experiment.stream(state) / "name").key(8).hex(),
            cohort=list(turn.clients),
            late=list(turn.late),
            cut=dict(turn.work),
            staleness=dict(turn.staleness),
            ends=turn.ends,
            survivors=list(aggregate.survivors) if aggregate else [],
            skipped=outcome.skipped,
            stopped=lost or self.experiment.ended(self.losses) or self._reached(evaluated),
            train_loss=float(np.mean(losses)) if losses else None,
            clipped_share=outcome.clipped_share,
            clipped_coordinates=aggregate.clipped if aggregate else 0,
            zeroed=outcome.zeroed,
            epsilon=ledger.epsilon() if self.experiment.plan.promises else None,
            bytes_up=aggregate.cost.bytes_up if aggregate else 0,
            bytes_down=aggregate.cost.bytes_down if aggregate else 0,
            secure=aggregate.secure if aggregate else None,
            validation_loss=self.losses[-1],
            clusters=clusters.record(self.experiment, outcome),
            evaluation=evaluated,
        )

    def _reached(self, evaluated: Evaluation | None) -> str | None:
        """The reason why the run ends with this evaluation, if it has a target."""
        target = self.experiment.config.evaluation.until
        if target is None or evaluated is None:
            return None
        return reached(evaluated.metrics, target, self.experiment.task.figures)

    def _observe(self, state: ServerState, outcome: Outcome) -> None:
        if self.experiment.config.records.views != "final":
            seen, transcripts = (outcome.aggregate.seen, outcome.aggregate.transcripts) if outcome.aggregate else ({}, ())
            survivors = outcome.aggregate.survivors if outcome.aggregate else ()
            views.observe(self.folder, state.round, state.global_D, outcome.participants, survivors, seen)
            views.observe_transcripts(self.folder, state.round, transcripts)

    def _commit(self, before: ServerState, outcome: Outcome, record: RoundRecord, timing: TimingRecord) -> None:
        """Write a finished round: the ledger before the views, and the state for resuming last of all."""
        append_line(self.folder.path / "ledger.jsonl", Entry.of(before.round, outcome.events))
        self._observe(before, outcome)
        self.folder.append(record, timing)
        write_state(self.folder, outcome.state)

    def _resume_point(self) -> tuple[ServerState, Ledger]:
        spent, ledger = self.folder.path / "ledger.jsonl", empty_ledger(self.experiment.plan)
        state = read_state(self.folder, self.experiment.x.device)
        if state is None:
            self.folder.rewind(0)
            ledger.begin(spent)
            return self.experiment.initial_state(), ledger
        ledger.resume(spent, state.round, self.experiment.planned)
        self.folder.rewind(state.round)
        return state, ledger

    def _finish(self, state: ServerState, ledger: Ledger, last: Evaluation, stopped: str | None) -> None:
        experiment, data = self.experiment, self.experiment.data
        records = self.folder.rounds()
        uploads = sum(len(record.survivors) for record in records)
        plain, whole = _upload_bytes(experiment)
        took_part = [sorted(set(record.survivors) & set(record.cohort)) for record in records]
        named = clusters.named_models(experiment, state)
        write_atomic(self.folder.path / "model.safetensors", save_tensors(named))
        own_models = dict(personal.models(experiment, state))
        views.observe_personal(self.folder, own_models)
        every = np.flatnonzero(data.member_N)
        members = torch.from_numpy(every[:: -(-len(every) // _MEMBERS)]).to(experiment.x.device)
        train_logits = clusters.outputs(experiment, state, experiment.x, members, data.owner_N, self.places_K)
        self.folder.write(
            "result.json",
            Result(
                rounds=state.round,
                stopped=stopped,
                parameters=experiment.layout.size,
                engine=experiment.engine,
                evaluation=last,
                clients=tuple(map(self.of_clients.get, range(len(data.clients)))) if self.of_clients else (),
                personal=personal.result(experiment, own_models, self.of_clients, took_part),
                groups=self.of_groups,
                train=next(iter(experiment.task.metrics(train_logits, experiment.y[members]).values())).value,
                privacy=privacy_result(experiment, ledger, state, sum(record.zeroed for record in records)),
                hides_updates=experiment.aggregator.hides_updates,
                bytes_up=sum(record.bytes_up for record in records),
                bytes_down=sum(record.bytes_down for record in records),
                bytes_plain=uploads * plain,
                bytes_uncompressed=uploads * whole if experiment.transform.kind != "identity" else None,
                clusters=clusters.results(experiment, self.places_K, self.of_clients),
                cluster_of=clusters.known_places(experiment, self.places_K),
                in_group=clusters.in_group(experiment, self.places_K),
            ),
        )
        (self.folder.path / _SECRET).unlink(missing_ok=True)


def _upload_bytes(experiment: Experiment) -> tuple[int, int]:
    """The bytes of a client's upload in the clear, as it is compressed and as it would be whole; its weight is a float32."""
    payload = experiment.payload.joined
    whole = 4 * (experiment.plan.message_layout(payload).size + 1)
    return whole - 4 * payload.size + experiment.transform.message_bytes(payload), whole


def _stored_secret(folder: RunFolder) -> Seed | None:
    """The root of the run's noise if it came from the operating system, else None.

    Raises:
        RunFolderError: the file is gone, so an unfinished round cannot be computed again with the same noise.
    """
    if getattr(folder.config.privacy, "randomness", "seeded") == "seeded":
        return None
    try:
        return Seed(int.from_bytes((folder.path / _SECRET).read_bytes(), "big"))
    except OSError:
        raise RunFolderError(
            f"{folder.path}: its noise.key is missing, so its noise cannot be drawn again; replace the run with --overwrite"
        ) from None


def environment(device: torch.device) -> Environment:
    """The machine and the package versions of this process."""
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
        classes=list(data.counted),
        counts=data.counts().tolist(),
        provenance=data.provenance,
        digest=data.digest(),
        constants=constants(experiment.model),
        files=list(data.files),
        columns=list(data.columns),
        misbehaving=tuple(sorted(experiment.misbehaving)),
    )
    if experiment.secret != experiment.seed:
        write_atomic(folder.path / _SECRET, experiment.secret.root.to_bytes(32, "big"))
        (folder.path / _SECRET).chmod(0o600)
    who = {"owner_N": data.owner_N, "candidate_N": data.candidate_N, "member_N": data.member_N}
    folder.begin(experiment.config, environment(experiment.x.device), who, partition)
