"""The price of a run in ε: before the run from its configuration, afterwards from its ledger."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

import numpy as np

from privfl.auditing.bound import NoiseFamily
from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, PrivacyError
from privfl.federation.server_state import ServerState
from privfl.learning import evaluation
from privfl.privacy import accounting
from privfl.privacy.ledger import Ledger
from privfl.privacy.mechanisms import Gaussian, History, PoissonGaussian, Relation, ShuffledEpoch
from privfl.privacy.plans import Plan
from privfl.privacy.words import ACCOUNTANTS, RELATIONS, SAMPLERS
from privfl.records import Extrapolated, Price, PrivacyResult
from privfl.running.assembling import assemble
from privfl.running.calibration import busiest_accounts, histories
from privfl.running.experiment import Experiment

GRID: Final = np.concatenate([np.linspace(0, 2, 81), np.linspace(2.05, 20, 360)])
"""The values of ε at which the privacy curve is stored."""


def prices(spent: Callable[[Relation], Sequence[History]], first: Relation, delta: float) -> list[Price]:
    """Every ε that holds for the given histories: the headline first, then by accountant and relation.

    Args:
        spent: each account's privacy history, stated under a relation.
        first: the plan's own relation.
        delta: the δ of all of them.

    Raises:
        ConfigError: an ε is infinite.
    """
    found = []
    for relation in sorted(get_args(Relation), key=lambda one: one != first):
        under = [history for history in spent(relation) if history]
        if any(history.relation != relation for history in under):
            continue
        able = [one for one in get_args(accounting.Accountant) if all(one in accounting.accountants(each) for each in under)]
        found += [_price(under, one, relation, delta) for one in able]
    return found


def _price(histories: Sequence[History], accountant: accounting.Accountant, relation: Relation, delta: float) -> Price:
    epsilon = accounting.largest_epsilon(histories, delta, accountant)
    if not math.isfinite(epsilon):
        raise ConfigError(
            f"privacy.noise_multiplier: ε by {ACCOUNTANTS[accountant]}, {RELATIONS[relation]}, is not finite at "
            f"δ = {delta:g}; raise it, or lower rounds"
        )
    return Price(accountant=accountant, relation=relation, epsilon=epsilon)


def require_finite_prices(experiment: Experiment) -> None:
    """Raise if an ε that the run would state is infinite; called before training.

    Raises:
        ConfigError: names the ε and the change that helps.
    """
    plan = experiment.plan
    if plan.promises:
        prices(experiment.ledger(experiment.config.rounds).histories, plan.relation, plan.delta)


def extrapolated(plan: Plan, rounds: int) -> Extrapolated | None:
    """The price of that many rounds in the federation that the run stands for; None if it stands for itself."""
    event = plan.extrapolated()
    if event is None:
        return None
    return Extrapolated(
        population=event.population,
        cohort=event.size,
        noise_multiplier=event.total_noise_multiplier,
        epsilon=accounting.epsilon(event.releases(rounds, plan.relation), plan.delta),
    )


def units(experiment: Experiment) -> int:
    """N in δ < 1/N: the number of examples that clients own, or of clients."""
    return len(experiment.data.pool) if experiment.plan.unit == "example" else len(experiment.data.clients)


def privacy_result(experiment: Experiment, ledger: Ledger, state: ServerState, zeroed: int) -> PrivacyResult | None:
    """The run's promise and its price, computed from the ledger alone; None if nothing was promised.

    Args:
        experiment: the run.
        ledger: its privacy events.
        state: the state after its last round.
        zeroed: the number of gradients or updates that were not finite.
    """
    plan = experiment.plan
    if not plan.promises:
        return None
    norm, asked = state.plan.get("norm"), plan.attack_relation
    attackable = ledger.histories(asked)
    return PrivacyResult(
        plan=experiment.config.privacy.kind,
        unit=plan.unit,
        units=units(experiment),
        relation=plan.relation,
        sampler=plan.accounted_sampler,
        adversaries=list(plan.adversaries),
        delta=plan.delta,
        randomness=plan.randomness,
        noise_multiplier=plan.executed_noise,
        clip=plan.clip,
        clip_end=None if norm is None else float(norm),
        epsilon=ledger.epsilon(),
        prices=prices(ledger.histories, plan.relation, plan.delta),
        extrapolated=extrapolated(plan, state.round),
        epsilon_clients=ledger.client_epsilons(len(experiment.data.clients)),
        budget=plan.budget,
        zeroed=zeroed,
        attack_relation=asked,
        attack_epsilon=accounting.largest_epsilon(attackable, plan.delta),
        curve_epsilon=GRID.tolist(),
        curve_delta=accounting.curve(attackable, GRID).tolist(),
    )


def format_epsilon(epsilon: float) -> str:
    """ε with three digits after the point, or one significant digit if it would round to 0."""
    return f"{epsilon:.1g}" if 0 < epsilon < 0.0005 else f"{epsilon:.3f}"


@dataclass(frozen=True)
class RunPrice:
    """The price of a run in ε before it is run.

    Args:
        experiment: the run, assembled.
        prices: every ε, the headline first.
        epsilon_clients: each client's ε by the headline's accountant.
        extrapolated: the price in the federation that the run stands for; None if it stands for itself.
    """

    experiment: Experiment
    prices: tuple[Price, ...]
    epsilon_clients: tuple[float, ...]
    extrapolated: Extrapolated | None

    def __repr__(self) -> str:
        return (
            f"<RunPrice of {self.experiment.config.name!r}: ε = {self.epsilon:.6g} at δ = {self.plan.delta:g} per "
            f"{self.plan.unit}, noise multiplier {self.plan.executed_noise:g}; more in .rows(), .prices and .epsilon_clients>"
        )

    @property
    def plan(self) -> Plan:
        """The plan with its final noise."""
        return self.experiment.plan

    @property
    def epsilon(self) -> float:
        """The headline ε: the largest over the clients."""
        return self.prices[0].epsilon if self.prices else 0.0

    def price(self, accountant: accounting.Accountant) -> float:
        """ε by that accountant, under the plan's own relation.

        Raises:
            PrivacyError: the accountant cannot price this plan.
        """
        for one in self.prices:
            if (one.accountant, one.relation) == (accountant, self.plan.relation):
                return one.epsilon
        able = ", ".join(one.accountant for one in self.prices if one.relation == self.plan.relation)
        raise PrivacyError(f"accountant {accountant!r} cannot price this plan; allowed here: {able}")

    def as_dict(self) -> dict[str, object]:
        """The figures of :meth:`rows` by name, as numbers and text."""
        plan = self.plan
        return {
            "plan": self.experiment.config.privacy.kind,
            "unit": plan.unit,
            "adversaries": list(plan.adversaries),
            "epsilon": self.epsilon,
            "delta": plan.delta,
            "noise_multiplier": plan.executed_noise,
            "max_norm": plan.clip,
            "budget": plan.budget,
            "prices": [one.model_dump() for one in self.prices],
            "epsilon_clients": list(self.epsilon_clients),
            "extrapolated": None if self.extrapolated is None else self.extrapolated.model_dump(),
        }

    def _time(self) -> list[tuple[str, str]]:
        """The row of the run's simulated time; none without a clock."""
        ends = self.experiment.timetable.turns[-1].ends
        return [] if ends is None else [("simulated time", f"{ends:,.4g} s")]

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for a table."""
        plan, spread = self.plan, evaluation.spread(self.epsilon_clients)
        rounds_K = np.bincount([client for cohort in self.experiment.cohorts for client in cohort], minlength=1)
        rows = [
            ("plan", f"{self.experiment.config.privacy.kind}, randomness {plan.randomness}"),
            ("protected", f"one {plan.unit}, from {', '.join(plan.adversaries)}"),
            ("sampling that is accounted", SAMPLERS[plan.accounted_sampler]),
            ("noise multiplier", f"{plan.executed_noise:g} (clipping norm {plan.clip:g})"),
            ("δ", f"{plan.delta:g}, below 1/{units(self.experiment)}"),
        ]
        if plan.statistics:
            noises = ", ".join(f"{noise:g}" for noise in plan.statistics)
            rows.append(("statistics released before the first round", f"{len(plan.statistics)}, noise multiplier {noises}"))
        for place, one in enumerate(self.prices):
            mark = "  (headline, the largest over the clients)" if place == 0 else ""
            rows.append(
                (f"ε by {ACCOUNTANTS[one.accountant]}, {RELATIONS[one.relation]}", f"{format_epsilon(one.epsilon)}{mark}")
            )
        if (poisson := plan.as_if_poisson()) is not None:
            would_be = epsilon_under(poisson, self.experiment)
            rows.append(("no guarantee: ε were the batches Poisson samples", format_epsilon(would_be)))
        if self.extrapolated is not None:
            wide = self.extrapolated
            imagined = f"{wide.cohort:,} of {wide.population:,} clients a round, noise multiplier {wide.noise_multiplier:g}"
            rows.append(("extrapolated ε, of a run that is not executed", f"{format_epsilon(wide.epsilon)}  ({imagined})"))
        least, middle, most = map(format_epsilon, (spread.minimum, spread.median, spread.maximum))
        return [
            *rows,
            ("ε over the clients", f"from {least} to {most}, median {middle}"),
            ("rounds of the busiest client", str(int(rounds_K.max()))),
            *self._time(),
            ("budget", "none" if plan.budget is None else f"{plan.budget:g}"),
        ]


def account(config: ExperimentConfig) -> RunPrice:
    """The price of a configuration in ε, without training.

    Raises:
        ConfigError: the configuration promises nothing, so it has no ε; or as :func:`privfl.running.assembling.assemble`.
    """
    experiment = assemble(config)
    plan, rounds = experiment.plan, config.rounds
    if not plan.promises:
        raise ConfigError("privacy.kind = 'none': nothing is promised, so no ε exists; set privacy.kind = 'example'")
    ledger = experiment.ledger(rounds)
    return RunPrice(
        experiment,
        tuple(prices(ledger.histories, plan.relation, plan.delta)),
        tuple(ledger.client_epsilons(len(experiment.data.clients))),
        extrapolated(plan, rounds),
    )


def epsilon_by_round(experiment: Experiment) -> list[float]:
    """ε after each round, beginning with 0 rounds: the largest over the clients so far, statistics included."""
    ledger = experiment.ledger(0)
    spent = [ledger.epsilon()]
    for number in range(experiment.config.rounds):
        ledger.record(number, experiment.planned(number))
        spent.append(ledger.epsilon())
    return spent


def noise_family(experiment: Experiment, rounds: int, relation: Relation) -> NoiseFamily | None:
    """The mechanism of a whole run with its noise left open; None if nothing is promised.

    Args:
        experiment: the run.
        rounds: how many it had.
        relation: how two runs differ of which one has a certain canary.
    """
    plan = experiment.plan
    if not plan.promises or plan.noise_multiplier is None:
        return None
    per_executed = plan.noise_multiplier / plan.executed_noise

    def spent(noise: float) -> list[History]:
        return replace(experiment, plan=plan.calibrated(noise * per_executed)).ledger(rounds).histories(relation)

    @functools.cache
    def curve(noise: float) -> tuple[list[float], list[float]] | None:
        try:
            histories = spent(noise)
        except ConfigError:
            # A norm that adapts leaves no room for so much noise.
            return None
        return GRID.tolist(), accounting.curve(histories, GRID).tolist()

    samples = [_sample(history) for history in accounting.dominating(spent(plan.executed_noise))]
    known = () if None in samples else tuple(one for one in samples if one is not None)
    return NoiseFamily(plan.executed_noise, curve, known)


def _sample(history: History) -> tuple[float, int] | None:
    """Sample rate and number of steps of a history of Gaussian releases under addition or removal; None if it is none."""
    uses = list(history.items())
    if len(uses) != 1:
        return None
    ((mechanism, steps),) = uses
    if mechanism.relation != "add_or_remove_one":
        return None
    if isinstance(mechanism, PoissonGaussian):
        return mechanism.sample_rate, steps
    return (1.0, steps) if isinstance(mechanism, Gaussian | ShuffledEpoch) else None


def epsilon_under(plan: Plan, experiment: Experiment) -> float:
    """ε of the experiment under another plan with the same accounts and cohorts."""
    rounds = busiest_accounts(plan, experiment.data, experiment.cohorts, experiment.aggregator)
    return accounting.largest_epsilon(histories(plan, experiment.data, rounds), plan.delta)
