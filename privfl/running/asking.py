"""Plays further rounds with the federation of a finished run, on models that a malicious server chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from privfl.errors import ItemError, RunFolderError
from privfl.federation.rounds import skip_reason
from privfl.federation.server_state import ServerState
from privfl.privacy.cohorts import CohortSampler
from privfl.running.experiment import Experiment
from privfl.running.kept_state import read_state
from privfl.running.orders import Answer, Order
from privfl.running.run_folder import RunFolder
from privfl.tables import narrow


@dataclass(frozen=True)
class Federation:
    """The clients of a finished run, with what they keep, and the cohorts of the rounds that they may be asked for.

    The run's plan, algorithm, cohort rule and aggregator go on; its ledger does not. Each round spends what a round of the run
    does, beyond the price of the run.

    Args:
        experiment: the run.
        state: the state after its last round.
        cohorts: who takes part in each of the further rounds.
    """

    experiment: Experiment
    state: ServerState
    cohorts: tuple[tuple[int, ...], ...]

    @classmethod
    def after(cls, folder: RunFolder, experiment: Experiment, name: str, rounds: int) -> Self:
        """The federation when the run is over.

        Args:
            folder: the run.
            experiment: the same, assembled.
            name: the attack, whose cohorts are drawn from a stream of its own.
            rounds: how many rounds it may ask for.

        Raises:
            RunFolderError: the run has no state to go on from.
        """
        state = read_state(folder, experiment.x.device)
        if state is None:
            raise RunFolderError(f"{folder.path}: has no state to go on from; run its config.toml again")
        sampler, stream = narrow(experiment.config.cohort, CohortSampler), experiment.seed / "asked" / name / "cohort"
        drawn = list(experiment.cohorts[: state.round])
        for number in range(rounds):
            drawn.append(sampler.draw(len(experiment.data.clients), drawn, (stream / number).numpy()))
        further = tuple(drawn[state.round :])
        return cls(replace(experiment, timetable=experiment.timetable.with_rounds(state.round, further)), state, further)

    def answers(self, orders: Sequence[Order], asked: int) -> tuple[Answer, ...]:
        """The answers to orders, one round for each.

        Args:
            orders: the models that are sent.
            asked: how many rounds were asked for before.

        Raises:
            ItemError: a model is no vector of the run's length.
            ModelError: a client's training on such a model is not finite.
        """
        return tuple(self._answer(order, asked + place) for place, order in enumerate(orders))

    def _answer(self, order: Order, place: int) -> Answer:
        experiment, number = self.experiment, self.state.round + place
        cohort = self.cohorts[place]
        for model_D in (order.model_D, *order.instead.values()):
            self._check(model_D)
        failed = skip_reason(cohort, experiment.aggregator, experiment.plan)
        if failed is not None:
            return Answer(number, order, (), (), failed, {})
        device = experiment.x.device
        everybody_D = order.model_D.to(device)
        others = {client: model_D.to(device) for client, model_D in order.instead.items()}
        models = {client: others.get(client, everybody_D) for client in cohort}
        came, aggregate = experiment.answers(replace(self.state, round=number, global_D=everybody_D), models)
        if aggregate is None:
            return Answer(number, order, tuple(came), (), None, {})
        seen = {name: value.cpu() for name, value in aggregate.seen.items()}
        return Answer(number, order, tuple(came), aggregate.survivors, aggregate.failed, seen)

    def _check(self, model_D: Tensor) -> None:
        if tuple(model_D.shape) != (self.experiment.layout.size,):
            raise ItemError(
                f"an attack sends a model of shape {tuple(model_D.shape)}; it must be ({self.experiment.layout.size},): "
                "make it from view.final_model()"
            )
