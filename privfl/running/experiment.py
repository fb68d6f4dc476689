"""The experiment: all objects of a run, ready to train, to price, or to train as a shadow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privfl.config import ExperimentConfig
from privfl.data.federated import FederatedData
from privfl.data.input_store import InputStore
from privfl.federation.aggregators import Aggregate, Aggregator, RoundContext
from privfl.federation.algorithms import Algorithm, Terms
from privfl.federation.behaviours import Behaviour
from privfl.federation.canaries._planted import Planted
from privfl.federation.clusters import Clustered, repeated
from privfl.federation.lateness import Lateness, on_device
from privfl.federation.noise_domain import question_digest, state_digest, with_members, with_model
from privfl.federation.outcome import CohortTasks, Outcome, RoundOrder
from privfl.federation.paces import Pace, Timetable
from privfl.federation.payload import PayloadLayout
from privfl.federation.rounds import Round, skip_reason
from privfl.federation.server_state import ServerState, state_of_client, told_of
from privfl.federation.servers import ServerOptimizer
from privfl.federation.slots import Slots
from privfl.federation.transforms import Transform
from privfl.learning import evaluation
from privfl.learning.models import Model
from privfl.learning.models._build import built, few
from privfl.learning.schedules import schedule_of
from privfl.learning.tasks import Task
from privfl.learning.training import LocalTask, Trainer
from privfl.privacy.events import Event
from privfl.privacy.ledger import Account, Ledger
from privfl.privacy.plans import Plan
from privfl.processes import ALONE, Processes
from privfl.running import clusters
from privfl.running.calibration import empty_ledger, planned
from privfl.running.stopping import stop_reason
from privfl.running.timing import planned_turns, units_of_work
from privfl.seeding import Seed
from privfl.tables import narrow
from privfl.vectors import Layout, to_vector

Contract = TypeVar("Contract")


@dataclass(frozen=True)
class Progress:
    """How far a run without records has come: the next round's state, the validation losses, and whether it was stopped."""

    state: ServerState
    losses: tuple[float | None, ...] = ()
    stopped: bool = False


@dataclass(frozen=True)
class ServerExamples:
    """Examples that the server trains on by itself, without a promise, and the trainer."""

    trainer: Trainer
    x: InputStore
    y: Tensor


@dataclass(frozen=True)
class Experiment:
    """All objects that a run needs, assembled and not yet trained.

    Args:
        config: the resolved configuration.
        seed: the root of all streams that are not secret.
        secret: the root of noise, of batches, and of cohorts if the plan keeps them secret. It is the seed, or drawn from the
            operating system.
        data: the examples with their owners and members.
        task: the training loss and the metrics.
        outputs: the shape of the model's outputs for one example.
        x, y: the pool's N inputs and labels, on the run's device.
        test_x, test_y: those of the central test split.
        plan: the privacy plan with its final noise.
        model: a module of the model's architecture for evaluation, whose weights are overwritten; the trainer has its own.
        initial_D: the global model before the first round; if there are several, they stand one after another.
        trainer, algorithm, transform, aggregator, server: the items that carry out a round.
        personal: trains the clients' own models, without noise; None if the algorithm has none.
        behaviour, misbehaving: the departure of some clients from the protocol, and the numbers of those clients.
        wrong_x, wrong_y: the whole pool as the misbehaving clients see it.
        engine: the trainer's name, and the reason for choosing it.
        timetable: who takes part in each round, from which global model and with how much work. It is made beforehand and does
            not depend on the data, so the price of the whole run is known before it begins.
        noise_domain: digest of the data, the members and all settings that change a message or the mechanism. The streams of
            batches and noise depend on it. Without it two runs of one seed on neighbouring data would share their noise, and
            the difference of their releases would have none.
        processes: the processes that carry out the run together.
        canaries: the canaries, if there are any.
        root: the server's own examples if the aggregator needs some.
        is_shadow: whether it is a shadow model of another run.
    """

    config: ExperimentConfig
    seed: Seed
    secret: Seed
    data: FederatedData
    task: Task
    outputs: tuple[int, ...]
    x: InputStore
    y: Tensor
    test_x: InputStore
    test_y: Tensor
    plan: Plan
    model: nn.Module
    initial_D: Tensor
    trainer: Trainer
    personal: Trainer | None
    behaviour: Behaviour
    misbehaving: frozenset[int]
    wrong_x: InputStore
    wrong_y: Tensor
    engine: str
    algorithm: Algorithm
    transform: Transform
    aggregator: Aggregator
    server: ServerOptimizer
    timetable: Timetable
    noise_domain: str
    processes: Processes = ALONE
    canaries: Planted | None = None
    root: ServerExamples | None = None
    is_shadow: bool = False

    def __repr__(self) -> str:
        return (
            f"<Experiment {self.config.name!r}: {self.config.rounds} rounds, {self.layout.size:,} parameters, {self.data!r}, "
            f"engine {self.engine}>"
        )

    @property
    def cohorts(self) -> tuple[tuple[int, ...], ...]:
        """The clients that take part, round by round."""
        return self.timetable.cohorts

    @property
    def layout(self) -> Layout:
        """Names and shapes of the model's parameters."""
        return Layout.of(self.model)

    @property
    def global_layout(self) -> Layout:
        """Names and shapes of the global vector, which has several models one after another if the algorithm has several."""
        return repeated(self.layout, self.algorithm.models)

    @property
    def payload(self) -> PayloadLayout:
        """Names and shapes of a client's payload, before it is compressed."""
        return PayloadLayout(self.algorithm.parts(self.layout), self.algorithm.viewed(self.layout))

    @property
    def message_layout(self) -> Layout:
        """Names and shapes of a client's message: its compressed payload, and the plan's count beside it."""
        return self.plan.message_layout(self.transform.message(self.payload.joined))

    @property
    def terms(self) -> Terms:
        """Public numbers that clients and server know."""
        training, largest = self.config.training, int(self.data.sizes().max())
        norm = self.plan.clip if self.plan.clips_updates else None
        if (private := self.plan.dp_sgd) is not None:
            return Terms(training.lr, private.planned(largest).steps, self.layout, norm)
        steps = training.local_steps or (training.local_epochs or 0) * -(-largest // training.batch_size)
        return Terms(training.lr, steps, self.layout, norm)

    def initial_state(self) -> ServerState:
        """The state that the first round begins with."""
        begin_D, shared = self.initial_D, self.transform.init(self.payload.joined, self.seed / "transform")
        optimizer, plan = self.server.init(begin_D), self.plan.initial(self.x.device)
        return ServerState(0, begin_D, optimizer, plan, self.algorithm.init(begin_D), transform=shared)

    def stream(self, state: ServerState) -> Seed:
        """The randomness of the round that begins with that state: batches, noise, and random layers.

        Only an identical query gets the same noise, so the stream depends on the model that the round begins with. Without a
        promise there is no noise to share. The stream then depends on the seed alone, so that two runs with one seed are
        paired. A shadow model is released to nobody. Its stream does not depend on the model, so that rounding, which may
        differ if several shadow models are trained together, does not change the noise.
        """
        stream = self.secret / "round" / state.round
        if not self.plan.promises:
            return stream
        if self.is_shadow:
            return stream / self.noise_domain
        return stream / with_model(self.noise_domain, state.global_D, self._told(state))

    def cohort(self, state: ServerState) -> CohortTasks:
        """The cohort of the round that begins with that state, and each client's training task."""
        return CohortTasks(self.cohorts[state.round], self.tasks(state), self.x[:1])

    def tasks(self, state: ServerState) -> Callable[[int], LocalTask]:
        """The training task of any client in the round that begins with that state."""
        sizes_K, stream, told = self.data.sizes(), self.stream(state), told_of(self.algorithm, state)
        # A round that is asked for after the last one goes by the last one's rate.
        number, rounds = min(state.round, self.config.rounds - 1), self.config.rounds
        scale = schedule_of(self.config.training.round_schedule).factor(number, rounds)

        gradients = None if self.canaries is None else self.canaries.gradients(self.data, self.plan)

        lateness = self._lateness(state)

        def task(client: int) -> LocalTask:
            rows_n = torch.from_numpy(self.data.members_of(client))
            before = state_of_client(self.algorithm, state, client)
            kept, digested = before.kept, before.digested()
            work = self.algorithm.work(told, {name: value.to(self.x.device) for name, value in kept.items()})
            start_D = lateness.start(client, state.versions)
            own = stream / "client" / client
            # Only an identical query gets the same noise. The client's state, and an older model, are parts of the query.
            query = digested if start_D is None else {**digested, "start_D": start_D}
            own = own / state_digest(query) if query and self.plan.promises and not self.is_shadow else own
            x, y = (self.wrong_x, self.wrong_y) if client in self.misbehaving else (self.x, self.y)
            made = LocalTask(client, int(sizes_K[client]), x, y, rows_n, own, work, scale, gradients)
            private = self.plan.dp_sgd
            whole = self.trainer.plain_steps(made) if private is None else private.planned(made.size).steps
            return replace(made, work=lateness.work(made, whole, start_D))

        return task

    def _lateness(self, state: ServerState) -> Lateness:
        return Lateness.of(narrow(self.config.pace, Pace), self.timetable, state.round, units_of_work(self.config))

    def planned(self, round_number: int) -> dict[Account, Event]:
        """The privacy events of that round, by account; empty if the round will be skipped or nothing is promised."""
        return planned(self.plan, self.data, self.cohorts[round_number], self.aggregator)

    def ledger(self, rounds: int) -> Ledger:
        """The ledger after the first ``rounds`` rounds."""
        ledger = empty_ledger(self.plan)
        for number in range(rounds):
            ledger.record(number, self.planned(number))
        return ledger

    def skipped(self, round_number: int) -> str | None:
        """The reason why nobody trains in that round; None if somebody does."""
        return skip_reason(self.cohorts[round_number], self.aggregator, self.plan)

    def step(
        self,
        state: ServerState,
        *,
        observed: bool = False,
        transcript: Path | None = None,
        cohort: CohortTasks | None = None,
    ) -> Outcome:
        """Carry out one round.

        Args:
            state: the state that the round begins with.
            observed: whether to keep the server's view.
            transcript: a folder for the messages to the server; None: they are not kept.
            cohort: the round's cohort; None: it is put together here.
        """
        context = self._context(state, observed=observed, transcript=transcript)
        return self._round(state).run(state, cohort or self.cohort(state), context)

    def answers(self, state: ServerState, models: Mapping[int, Tensor]) -> tuple[Sequence[int], Aggregate | None]:
        """Play a round in which a malicious server sends the cohort models of its choice; nothing is kept of it.

        If the plan promises something, everybody draws from streams that are named by all of the models: no two questions share
        noise. Otherwise runs of one seed are paired here too.

        Args:
            state: of which the round and the clients' states count.
            models: the model that each client of the round's cohort is sent, of shape (D,).

        Returns:
            who handed something in, and the aggregate; None if nobody did.
        """
        asked = question_digest(models) if self.plan.promises else ""
        own = replace(self, seed=self.seed / "asked" / asked, secret=self.secret / "asked" / asked, personal=None)
        groups: dict[int, list[int]] = {}
        for client in sorted(models):
            groups.setdefault(id(models[client]), []).append(client)
        tasks = []
        for clients in groups.values():
            with_model = replace(state, global_D=models[clients[0]])
            tasks.append((with_model, replace(own.cohort(with_model), clients=tuple(clients))))
        first = tasks[0][0] if tasks else state
        context = own._context(first, observed=True, transcript=None)
        context = replace(context, models=models if len(tasks) > 1 else {})
        done, aggregate = own._round(first).answers(tasks, context)
        if aggregate is not None:
            aggregate = replace(aggregate, seen=own._round(first).seen(first, aggregate.seen))
        return sorted([*done.clients, *done.stand_ins]), aggregate

    def assist(self) -> None:
        """Train this process' share of every round that the first process begins, until the first process ends the run."""
        global_D = self.initial_D.clone()
        while True:
            order: RoundOrder | None = self.processes.broadcast()
            if order is None:
                return
            told = {name: value.to(self.x.device) for name, value in order.algorithm.items()}
            versions = on_device(order.versions, self.x.device)
            begun_D = self.processes.broadcast_vector(global_D)
            state = ServerState(order.round, begun_D, {}, order.plan, told, order.clients, versions, order.transform)
            # All processes must agree on whether the updates travel.
            context = self._context(state, observed=self.config.records.views != "final", transcript=None)
            self._round(state).contribute(state, self.cohort(state), context, order)

    def _context(self, state: ServerState, *, observed: bool, transcript: Path | None) -> RoundContext:
        name = self.seed / "round" / state.round
        codec = self.plan.codec((name / "rotation").key())
        return RoundContext(
            round=state.round,
            global_D=state.global_D,
            layout=self.transform.message(self.payload.joined),
            population=len(self.data.clients),
            simulation_key=(name / "rounding").key(),
            run=f"{self.config.name} {self.noise_domain}",
            observed=observed,
            transcript=transcript,
            processes=self.processes,
            codec=codec,
            noise_key=(self.stream(state) / "shares").key() if codec is not None else b"",
            told=self._told(state),
            root=None if self.root is None else partial(self._root_update, state, self.root),
            compressed=None if self.transform.linear else self.transform.message_bytes(self.payload.joined),
            lost=self.timetable.turn(state.round).lost,
        )

    def _root_update(self, state: ServerState, root: ServerExamples) -> Tensor:
        """The update of the server's own training in a round, shape (D,)."""
        number = min(state.round, self.config.rounds - 1)
        scale = schedule_of(self.config.training.round_schedule).factor(number, self.config.rounds)
        rows_n, own = torch.arange(len(root.x)), self.seed / "round" / state.round / "root"
        (result,) = root.trainer.train(state.global_D, [LocalTask(0, len(root.x), root.x, root.y, rows_n, own, lr_scale=scale)])
        return result.delta_D

    def _told(self, state: ServerState) -> dict[str, Tensor]:
        """Everything that the server sends to clients beside the model."""
        shared = {f"transform.{name}": value for name, value in state.transform.items()}
        return {**self.plan.for_clients(state.plan), **told_of(self.algorithm, state), **shared}

    def _round(self, state: ServerState) -> Round:
        return Round(
            plan=self.plan,
            trainer=self.trainer,
            personal=self.personal,
            algorithm=self.algorithm,
            payload=self.payload,
            terms=self.terms,
            behaviour=self.behaviour,
            misbehaving=self.misbehaving,
            canaries=None if self.canaries is None else self.canaries.clients(self.data, self.plan),
            aggregator=self.aggregator,
            server=self.server,
            largest_client=int(self.data.sizes().max()),
            population=len(self.data.clients),
            stream=self.stream(state) / "server",
            noise_domain=self.noise_domain,
            transform=self.transform,
            public=self.seed / "round" / state.round / "transform",
            start_loss=self._start_loss if self.algorithm.needs_loss else None,
            lateness=self._lateness(state),
            slots=self._slots(),
        )

    def _slots(self) -> Slots | None:
        """The slots of a round if there are several global models."""
        algorithm = self.algorithm
        if not isinstance(algorithm, Clustered) or algorithm.models == 1:
            return None
        return Slots(algorithm, self.plan, self.aggregator, self.layout, self._losses)

    def _start_loss(self, global_D: Tensor, task: LocalTask) -> float:
        return float(self._losses(global_D[None], [task])[0, 0])

    def _losses(self, models_MD: Tensor, tasks: Sequence[LocalTask]) -> Tensor:
        """The mean training loss of each task under each model, shape (K, M)."""
        rows, y = torch.cat([task.rows_n for task in tasks]).to(self.x.device), [task.y[task.rows_n] for task in tasks]
        return clusters.losses(self, models_MD, rows, torch.cat(y), [len(task.rows_n) for task in tasks])

    def train(self) -> Tensor:
        """Train all rounds without writing records, as for shadow models; returns the final global model, shape (D,)."""
        progress = Progress(self.initial_state())
        while not self.over(progress):
            progress = self.after(progress, self.step(progress.state))
        return progress.state.global_D

    def over(self, progress: Progress) -> bool:
        """Whether the run has no round left."""
        return progress.stopped or progress.state.round >= self.config.rounds

    def after(self, progress: Progress, outcome: Outcome) -> Progress:
        """The run's progress after one more round."""
        losses = (*progress.losses, self.validation_loss(outcome))
        lost = outcome.aggregate is not None and outcome.aggregate.ends_run
        return Progress(outcome.state, losses, lost or self.ended(losses) is not None)

    def validation_loss(self, outcome: Outcome) -> float | None:
        """The mean loss after a round on the clients' validation examples.

        It is computed from two sums over the clients. A loss that is not finite counts as the largest float32. The result is
        None if the model did not change or the run has no early stopping.
        """
        if self.data.validation_N is None or outcome.skipped is not None:
            return None
        index = torch.from_numpy(np.flatnonzero(self.data.validation_N)).to(self.x.device)
        outputs = clusters.outputs(self, outcome.state, self.x, index, self.data.owner_N)
        largest = torch.finfo(torch.float32).max
        return float(self.task.loss(outputs, self.y[index]).nan_to_num(largest, largest, largest).double().mean())

    def ended(self, losses: Sequence[float | None]) -> str | None:
        """The reason why early stopping ends the run after rounds with these validation losses; None if it goes on."""
        rule = self.config.training.early_stopping
        return None if rule is None else stop_reason(losses, rule)

    def shadow(self, index: int, member_N: NDArray[np.bool_]) -> Experiment:
        """A shadow experiment: the same procedure on another draw of the members, with its own randomness.

        Args:
            index: the number of the shadow model.
            member_N: the shadow's members among the pool.
        """
        seed, item = self.seed / "shadow" / index, narrow(self.config.model, Model)
        data, name = replace(self.data, member_N=member_N), with_members(self.noise_domain, member_N)
        return replace(
            self,
            seed=seed,
            secret=seed,
            data=data,
            # The shadow has the target's constants and its own initial weights. An adversary that knows the architecture knows
            # its fixed values, such as random features. Initial weights are drawn anew.
            initial_D=initial_vector(item, data, self.outputs, seed, self.algorithm, None).to(self.x.device),
            timetable=planned_turns(self.config, data, seed, seed, name),
            noise_domain=name,
            processes=ALONE,
            is_shadow=True,
        )

    def logits(self, vector_D: Tensor, x: InputStore | Tensor) -> Tensor:
        """The model's outputs at these parameters, shape (N, *outputs)."""
        return evaluation.logits(self.model, vector_D, x)


def initial_vector(
    item: Model, data: FederatedData, outputs: tuple[int, ...], seed: Seed, algorithm: Algorithm, first_D: Tensor | None
) -> Tensor:
    """The global vector before the first round: a model with random weights, or several.

    Args:
        item: the architecture.
        data: says what an input is.
        outputs: the shape of the outputs for one example.
        seed: the root of the weights.
        algorithm: says how many models there are, and whether they begin alike.
        first_D: the first model if it is built already.
    """
    fields = data.pool.fields
    models = [to_vector(built(item, few(data), outputs, seed / "model", fields)) if first_D is None else first_D]
    for place in range(1, algorithm.models):
        own = seed / "model" / place
        apart = algorithm.starts_apart
        models.append(to_vector(built(item, few(data), outputs, own, fields)).to(models[0]) if apart else models[0])
    return models[0] if len(models) == 1 else torch.cat(models)
