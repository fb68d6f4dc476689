"""One federated round as a function: server state and cohort in, next state and outcome out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from privfl import own_code
from privfl.errors import DataError, PrivacyError
from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, RoundContext
from privfl.federation.algorithms import Algorithm, Begun, Terms, Trained
from privfl.federation.behaviours import Behaviour
from privfl.federation.canaries import CanaryClients
from privfl.federation.checks import (
    require_each_once,
    require_finite,
    require_one_process,
    require_result,
    server_step,
)
from privfl.federation.client_states import ClientState
from privfl.federation.clusters import Arrivals, count_entry
from privfl.federation.cohort_results import CohortResults, stand_ins
from privfl.federation.compression import restored, sent
from privfl.federation.lateness import Lateness, Versions, planned_with
from privfl.federation.local_training import carried_out, joined
from privfl.federation.outcome import CohortTasks, Outcome, RoundOrder
from privfl.federation.payload import PayloadLayout
from privfl.federation.server_state import ServerState, begun, personal_state, state_of_client, told_of
from privfl.federation.servers import ServerOptimizer, State
from privfl.federation.slots import Slots, with_cost
from privfl.federation.transforms import Shared, Transform
from privfl.federation.transforms.identity import Identity
from privfl.learning.training import LocalResult, LocalTask, Trainer
from privfl.privacy.events import Event
from privfl.privacy.ledger import Account
from privfl.privacy.plans import Contribution, Plan, PlanState, WeightedSum, require_planned
from privfl.seeding import Seed
from privfl.vectors import are_finite


def skip_reason(cohort: Sequence[int], aggregator: Aggregator, plan: Plan) -> str | None:
    """The reason why a cohort cannot be trained; None if it can.

    It is known before the round, so no privacy is spent for nothing. A cohort that is drawn in secret is never skipped, even if
    it is empty: a skipped round would reveal who was absent.
    """
    if plan.trusts_server:
        return None
    least = max(1, aggregator.minimum_clients, plan.minimum_clients)
    if len(cohort) < least:
        return f"a cohort of {len(cohort)}; {aggregator.kind} needs at least {least}"
    return None


@dataclass(frozen=True)
class Round:
    """The parts that carry out a round.

    Args:
        plan: the privacy plan; each event must be the one that it planned.
        trainer: trains the cohort.
        algorithm: defines the clients' uploads and the direction of the server's step.
        payload: the layout of the clients' uploads.
        terms: public numbers of the run.
        behaviour: the way in which misbehaving clients change their payloads.
        misbehaving: the numbers of those clients.
        aggregator: sums or averages the updates.
        server: the optimizer that moves the global model.
        largest_client: the number of examples of the largest client.
        population: N, the number of clients.
        stream: the server's own randomness in this round.
        noise_domain: the run's noise domain.
        personal: trains the clients' own models, without noise; None if they have none.
        canaries: the uploads of canary clients; None if there are none.
        transform: compresses the clients' payloads.
        public: public randomness of this round, from which a transform draws.
        start_loss: a client's mean training loss at the global model; None unless the algorithm needs it.
        lateness: who is late, and the pace; None if nobody is.
        slots: chooses models and slots for the clients if there are several global models; else None.
    """

    plan: Plan
    trainer: Trainer
    algorithm: Algorithm
    payload: PayloadLayout
    terms: Terms
    behaviour: Behaviour
    misbehaving: frozenset[int]
    aggregator: Aggregator
    server: ServerOptimizer
    largest_client: int
    population: int
    stream: Seed
    noise_domain: str
    personal: Trainer | None = None
    canaries: CanaryClients | None = None
    transform: Transform = Identity(kind="identity")  # noqa: RUF009
    public: Seed = Seed(0)  # noqa: RUF009
    start_loss: Callable[[Tensor, LocalTask], float] | None = None
    slots: Slots | None = None
    lateness: Lateness | None = None

    def run(self, state: ServerState, cohort: CohortTasks, context: RoundContext) -> Outcome:
        """Carry out the round: local training, aggregation and the server's step; called by the first process.

        Args:
            state: the state after the previous round.
            cohort: the clients that take part.
            context: facts that clients and server share during aggregation.

        Raises:
            ModelError: training diverged.
            PrivacyError: an event differs from the planned one.
        """
        skipped = skip_reason(cohort.clients, self.aggregator, self.plan)
        if skipped is not None:
            after = replace(state, round=state.round + 1, versions=self._versions(state))
            return Outcome(after, (), None, (), {}, None, 0, skipped, 0.0, 0)
        if context.codec is not None and not self.aggregator.uses_codec:
            raise PrivacyError(
                f"aggregator {self.aggregator.kind!r} does not encode with the plan's codec, which adds the noise, so nothing "
                "was sent; set privacy.kind = 'client_central' or 'client_local'"
            )
        context.processes.broadcast(self._order(state, cohort))
        context.processes.broadcast_vector(state.global_D)
        done, aggregate = self.contribute(state, cohort, context)
        return self._outcome(state, done, aggregate)

    def _order(self, state: ServerState, cohort: CohortTasks) -> RoundOrder:
        told = {name: value.cpu() for name, value in told_of(self.algorithm, state).items()}
        clients = {client: state.clients[client] for client in cohort.clients if client in state.clients}
        versions = {begun: model_D.cpu() for begun, model_D in state.versions.items()}
        shared = {name: value.cpu() for name, value in state.transform.items()}
        own = self.plan.for_clients(state.plan)
        return RoundOrder(state.round, own, self.noise_domain, told, clients, versions, shared)

    def contribute(
        self, state: ServerState, cohort: CohortTasks, context: RoundContext, order: RoundOrder | None = None
    ) -> tuple[CohortResults, Aggregate | None]:
        """Train this process' share of the cohort and pass it to the aggregator; every process calls it once per round.

        The cohort is divided into parts that depend on its size alone. Each part is trained by itself, so its result does not
        depend on the process.

        Args:
            state: the state that the round begins with.
            cohort: the clients that take part.
            context: facts that clients and server share during aggregation.
            order: the message from the first process; None at the first process itself.

        Returns:
            the clients' results and the aggregate. The aggregate is None at all processes but the first, and if nobody took
                part.
        """
        mine, updates, states = CohortResults(), list[ClientUpdate](), dict[int, ClientState]()
        failed: Exception | None = None
        try:
            if order is not None and order.noise_domain != self.noise_domain:
                raise DataError(
                    f"process {context.processes.rank} read other data, or built another model, than process 0; give all the "
                    "same files, and seed the shuffling of the data set and the random draws of the model"
                )
            if self.slots is not None:
                return self._contribute_to_slots(self.slots, state, cohort, context)
            for parts in self._handed_in_together(self._parts(state, cohort, context)):
                states |= self._train(parts, state, context, mine, updates)
        except Exception as error:
            # All processes learn of the error before it is raised. Otherwise they would wait for a process that has left.
            failed = own_code.told(error) or error if context.processes.size > 1 else error
        shares = context.processes.all_gather((mine, failed))
        failures = [found for _, found in shares if found is not None]
        if failures and context.processes.first:
            raise failures[0]
        if failures:
            return CohortResults(), None
        done = CohortResults.of([share for share, _ in shares])
        if self.algorithm.remembers or self.algorithm.personal or self.transform.remembers:
            done.states = {client: kept for some in context.processes.gather(states) for client, kept in some.items()}
        require_each_once(cohort.clients, done.clients)
        if not done.clients:
            return done, None
        return done, self._collected(done, updates, context)

    def _contribute_to_slots(
        self, slots: Slots, state: ServerState, cohort: CohortTasks, context: RoundContext
    ) -> tuple[CohortResults, Aggregate | None]:
        """As :meth:`contribute` if there are several global models: the whole cohort is trained before slots are filled."""
        require_one_process(f"algorithm.kind = {slots.algorithm.kind!r}", "several global models", context.processes.size)
        told, mine, updates = told_of(self.algorithm, state), CohortResults(), list[ClientUpdate]()
        parts = self._parts(state, cohort, context)
        tasks = [task for part in parts for task in part]
        kept = {task.client: state_of_client(self.algorithm, state, task.client).kept for task in tasks}
        begun, arrivals, cost = slots.begin(state.global_D, told, kept, tasks, context)
        first_D, results, done = slots.models(state.global_D)[0], list[LocalResult](), 0
        started = time.perf_counter()
        for part in parts:
            results += self.trainer.train(first_D, begun[done : done + len(part)])
            done += len(part)
        mine.seconds += time.perf_counter() - started
        if arrivals is None:
            arrivals, cost = slots.chosen(told, kept, results, context)
        states = self._hand_in(begun, results, state, context, mine, updates, arrivals)
        if self.algorithm.remembers:
            mine.states = states
        require_each_once(cohort.clients, mine.clients)
        found = CohortResults.of([mine])
        found.states = mine.states
        if not found.clients:
            return found, None
        if arrivals is not None:
            aggregate = self._collected(found, updates, context)
        else:
            aggregate, arrivals, found.server = slots.sorted_by_server(
                state.algorithm, updates, context, count_entry(self.terms)
            )
            require_result(self.aggregator, aggregate)
        found.arrivals = arrivals
        return found, with_cost(aggregate, cost) if aggregate is not None else None

    def answers(
        self, groups: Sequence[tuple[ServerState, CohortTasks]], context: RoundContext
    ) -> tuple[CohortResults, Aggregate | None]:
        """Train groups of clients, each on a model of a malicious server's choice, and aggregate; no state is kept.

        Args:
            groups: clients that are sent the same model, with the state that has it.
            context: what both ends of the aggregation know.

        Returns:
            the results of the clients, and the aggregate; None if there are none.
        """
        mine, updates = CohortResults(), list[ClientUpdate]()
        for state, cohort in groups:
            for parts in self._handed_in_together(self._parts(state, cohort, context)):
                self._train(parts, state, context, mine, updates)
        done = CohortResults.of([mine])
        return done, self._collected(done, updates, context) if done.clients else None

    def _collected(self, done: CohortResults, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate | None:
        """The aggregate of what clients handed in, at the first process."""
        wire = self._wire_context(context)
        # Stand-ins belong to no process, so the first one adds them.
        extra = stand_ins(self.aggregator, done.clients, wire) if context.processes.first else []
        done.stand_ins.extend(update.client for update in extra)
        aggregate = self.aggregator.collect([*updates, *extra], wire)
        if context.processes.first:
            require_result(self.aggregator, aggregate)
        if self.lateness is not None and aggregate is not None:
            self.lateness.require_lost(aggregate.survivors)
        return aggregate

    def _wire_context(self, context: RoundContext) -> RoundContext:
        """The context of the aggregation, extended by the count that an adaptive norm sends beside the update.

        Raises:
            PrivacyError: the aggregator would round or clip the count.
        """
        if self.plan.count_entry is None:
            return context
        if not self.aggregator.carries(self.plan.count_entry, context):
            raise PrivacyError(
                f"aggregator {self.aggregator.kind!r} rounds or clips {self.plan.count_entry:g}, the count of an adaptive "
                "norm, so nothing was sent; raise aggregator.bits, and set aggregator.clip to at least 0.5"
            )
        layout = self.plan.message_layout(context.layout)
        # The count is sent beside a compressed update, as a float32.
        counted = None if context.compressed is None else context.compressed + 4 * (layout.size - context.layout.size)
        return replace(context, layout=layout, compressed=counted)

    def _parts(self, state: ServerState, cohort: CohortTasks, context: RoundContext) -> list[list[LocalTask]]:
        """This process' parts of the cohort, each a list of tasks that the engine trains together."""
        if not cohort.clients:
            return []
        model_D = state.global_D if self.slots is None else self.slots.models(state.global_D)[0]
        return cohort.parts(self.trainer.parts(len(cohort.clients), model_D, cohort.example), context.processes)

    def _handed_in_together(self, parts: list[list[LocalTask]]) -> list[list[list[LocalTask]]]:
        """The parts of a cohort in groups. Those of one group are all trained before any client of it hands in its upload.

        Attackers who collude need one another's updates, so the whole cohort is one group.
        """
        if not self.behaviour.colludes:
            return [[part] for part in parts]
        return [parts] if parts else []

    def _train(
        self,
        parts: Sequence[Sequence[LocalTask]],
        state: ServerState,
        context: RoundContext,
        done: CohortResults,
        updates: list[ClientUpdate],
    ) -> dict[int, ClientState]:
        """Train some clients and let the plan clip and noise their payloads; returns their states after the round."""
        started = time.perf_counter()
        results, personal = list[LocalResult](), list[dict[str, Tensor]]()
        for tasks in parts:
            found = carried_out(
                self.trainer,
                state.global_D,
                tasks,
                [self.algorithm.training(begun) for begun in self._begun(state, tasks, self.trainer)],
            )
            results += [joined(ended, works) for ended, works in found]
            personal += self._train_personal(state, tasks, [ended.personal for ended, _ in found])
        done.seconds += time.perf_counter() - started
        tasks = [task for part in parts for task in part]
        states = self._hand_in(tasks, results, state, context, done, updates, None)
        own = {task.client: found for task, found in zip(tasks, personal, strict=True)}
        return {client: replace(kept, personal=own[client]) for client, kept in states.items()}

    def _hand_in(
        self,
        tasks: Sequence[LocalTask],
        results: Sequence[LocalResult],
        state: ServerState,
        context: RoundContext,
        done: CohortResults,
        updates: list[ClientUpdate],
        arrivals: Arrivals | None,
    ) -> dict[int, ClientState]:
        """Let the plan clip and noise the payloads of trained clients; returns their states after the round."""
        if not self.plan.clips_updates:
            require_finite(results)
        # A client adds its own noise before the encoding, so rounding costs no privacy. The server adds its noise after it, so
        # that noise must cover the rounding too.
        rounding = self.aggregator.rounding_norm(context) if self.plan.trusts_server else 0.0
        uploads = self._uploaded(
            state, tasks, [self._payload(state, *one, arrivals) for one in zip(tasks, results, strict=True)]
        )
        handed_in = [
            self._handed_in(task, result, self.plan.at_client(joined_D, context.layout, state.plan, task.seed, rounding))
            for task, result, (joined_D, _) in zip(tasks, results, uploads, strict=True)
        ]
        for task, one in zip(tasks, handed_in, strict=True):
            weight = self.plan.weight(task.size, self.largest_client) if self.algorithm.weighted else 1.0
            updates.append(ClientUpdate(task.client, one.delta_D, weight))
        done.add(results, handed_in)
        return {task.client: kept for task, (_, kept) in zip(tasks, uploads, strict=True) if kept is not None}

    def _begun(self, state: ServerState, tasks: Sequence[LocalTask], trainer: Trainer) -> list[Begun]:
        return [begun(self.algorithm, state, task, trainer, self.terms) for task in tasks]

    def _train_personal(
        self, state: ServerState, tasks: Sequence[LocalTask], given: Sequence[State]
    ) -> list[dict[str, Tensor]]:
        """The clients' personal states after the round; empty if the algorithm has none. No upload is computed from them.

        If a state is not finite, the client keeps its previous one.

        Args:
            state: the state that the round begins with.
            tasks: the clients' tasks.
            given: the personal states that came with the training of the uploads.
        """
        if self.personal is None:
            return [{} for _ in tasks]
        own = [replace(task, seed=task.seed / "personal") for task in tasks]
        before = [personal_state(self.algorithm, state, task.client) for task in tasks]
        begun = [
            replace(one, personal=personal | by_product)
            for one, personal, by_product in zip(self._begun(state, own, self.personal), before, given, strict=True)
        ]
        found = carried_out(self.personal, state.global_D, own, [self.algorithm.personal_training(one) for one in begun])
        return [
            {name: value.cpu() for name, value in (after if all(are_finite([*after.values()])) else earlier).items()}
            for earlier, (after, _) in zip(before, found, strict=True)
        ]

    def _payload(
        self, state: ServerState, task: LocalTask, result: LocalResult, arrivals: Arrivals | None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """A client's joined payload if it follows the protocol, shape (D',), and what it keeps."""
        before = state_of_client(self.algorithm, state, task.client)
        slot = arrivals.chosen[task.client] if arrivals is not None else None
        loss = None if self.start_loss is None else self.start_loss(state.global_D, task)
        trained = Trained(result.delta_D, result.gradient_weight or 0.0, self.terms, state.global_D, slot, loss)
        kept = {name: value.to(state.global_D.device) for name, value in before.kept.items()}
        payload, after = self.algorithm.upload(told_of(self.algorithm, state), kept, trained)
        keeps = after if self.algorithm.remembers else None
        return self.payload.join(payload), keeps

    def _uploaded(
        self, state: ServerState, tasks: Sequence[LocalTask], payloads: Sequence[tuple[Tensor, dict[str, Tensor] | None]]
    ) -> list[tuple[Tensor, ClientState | None]]:
        """Each client's message, shape (M,), and its state after the round. Misbehaving clients change their payloads first."""
        honest = {task.client: joined_D for task, (joined_D, _) in zip(tasks, payloads, strict=True)}
        attackers = {client: joined_D for client, joined_D in honest.items() if client in self.misbehaving}
        sends = honest | (self.behaviour.uploads(attackers, len(tasks)) if attackers else {})
        found = []
        for task, (_, keeps) in zip(tasks, payloads, strict=True):
            joined_D, before = sends[task.client], state_of_client(self.algorithm, state, task.client)
            if self.canaries is not None:
                joined_D = self.canaries.upload(task.client, joined_D)
            found.append(sent(self.transform, joined_D, before, keeps, self._shared(state), task.seed / "transform"))
        return found

    def _shared(self, state: ServerState) -> Shared:
        return Shared(self.payload.joined, state.transform, self.public)

    def seen(self, state: ServerState, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """The server's view of a round: messages restored to payloads, and split into their parts."""
        return self.payload.seen(restored(self.transform, self.plan.seen(seen), self._shared(state)))

    def _handed_in(self, task: LocalTask, result: LocalResult, one: Contribution) -> Contribution:
        """The contribution with its privacy event, which comes from the training or from the plan.

        Raises:
            PrivacyError: the event differs from the planned one.
        """
        spent = one.event or result.event
        own = self.plan.promises and not self.plan.trusts_server
        planned = self.plan.planned(task.size) if own else None
        require_planned(spent, planned_with(planned, task.work.steps), f"client {task.client}")
        # Work that was cut is charged as the whole.
        one = replace(one, event=spent if task.work.steps is None else planned)
        return one if self.lateness is None else self.lateness.weighted(task.client, one)

    def _outcome(self, state: ServerState, done: CohortResults, aggregate: Aggregate | None) -> Outcome:
        plan = self.plan
        # If the noise is the server's, a lost sum counts as empty: a skipped round would reveal who took part.
        failed = aggregate.failed if aggregate is not None and not plan.trusts_server else None
        spent: dict[Account, Event] = {
            client: one.event for client, one in zip(done.clients, done.handed_in, strict=True) if one.event is not None
        }
        mean_D, plan_state, share = None, state.plan, 0.0
        if failed is None:
            release = plan.at_server(self._total(state, aggregate), state.plan, state.round, self.stream)
            require_planned(release.event, plan.planned(1) if plan.trusts_server else None, f"round {state.round}")
            spent |= {"everybody": release.event} if release.event is not None else {}
            mean_D, plan_state = release.mean_D, release.state
            came = aggregate.survivors if aggregate is not None else ()
            # If the plan keeps the cohort secret, the result must not depend on the number of clients that came.
            share = getattr(release.event, "denominator", len(came)) / self.population
            done.states = {client: done.states[client] for client in came if client in done.states}
        # If too few clients survived, the privacy that they spent stays spent: they drew noise and sent masked vectors.
        return Outcome(
            self._stepped(state, mean_D, plan_state, share, done),
            done.losses,
            replace(aggregate, seen=self.seen(state, aggregate.seen)) if aggregate is not None else None,
            sorted([*done.clients, *done.stand_ins]),
            spent,
            plan.clipped_share(done.clipped_shares, [one.within for one in done.handed_in]),
            sum(done.zeroed),
            failed,
            done.seconds,
            done.processes,
            done.arrivals,
        )

    def _total(self, state: ServerState, aggregate: Aggregate | None) -> WeightedSum:
        if aggregate is not None and aggregate.sum_D is not None:
            return WeightedSum(aggregate.sum_D.to(state.global_D.device), aggregate.weight_sum, aggregate.mean_D)
        length = self.plan.message_layout(self.transform.message(self._summed.joined)).size
        nothing_D = state.global_D.new_zeros(length, dtype=torch.float64)
        return WeightedSum(nothing_D, 0.0, aggregate.mean_D if aggregate is not None else None)

    @property
    def _summed(self) -> PayloadLayout:
        """The layout of the sum, which is that of a payload unless the server sorts clients into slots."""
        return self.payload if self.slots is None else self.slots.summed

    def _stepped(
        self, state: ServerState, mean_D: Tensor | None, plan: PlanState, share: float, done: CohortResults
    ) -> ServerState:
        """The state after the round. If there is no mean, the model and all client states stay as they were.

        The state of a client changes only if its update arrived. A client whose update was lost counts as not trained.
        """
        if mean_D is None:
            return replace(state, round=state.round + 1, plan=plan, versions=self._versions(state))
        server = state.algorithm if done.server is None else done.server
        if self.slots is not None:
            server = self.slots.algorithm.before_step(server, self.slots.models(state.global_D))
        joined_D, shared = self.transform.at_server(mean_D, self._shared(state))
        direction_D, algorithm = self.algorithm.apply(server, self._summed.split(joined_D), share, self.terms)
        before_D, optimizer = state.global_D, state.optimizer
        if self.slots is not None:
            before_D, optimizer = self.slots.continued(algorithm, before_D, optimizer)
        if self.lateness is not None:
            direction_D = self.lateness.direction(direction_D, before_D, state.versions)
        clients, versions = {**state.clients, **done.states}, self._versions(state)
        after = ServerState(state.round + 1, before_D, optimizer, plan, algorithm, clients, versions, shared)
        if self.slots is not None and self.slots.algorithm.rests(server):
            return after
        global_D, optimizer = server_step(self.server, before_D, direction_D, optimizer)
        return replace(after, global_D=global_D, optimizer=optimizer)

    def _versions(self, state: ServerState) -> Versions:
        """The older global models that later rounds need."""
        return {} if self.lateness is None else self.lateness.kept(state.versions, state.global_D)
