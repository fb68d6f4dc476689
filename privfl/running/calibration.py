"""Calibration: the smallest noise with which no account exceeds the target ε, and the privacy events of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from privfl.config import ExperimentConfig
from privfl.data.federated import FederatedData
from privfl.errors import ConfigError, PrivacyError
from privfl.federation.aggregators import Aggregator
from privfl.federation.rounds import skip_reason
from privfl.privacy import accounting
from privfl.privacy.events import Event
from privfl.privacy.ledger import Account, Ledger, statistics_history
from privfl.privacy.mechanisms import History
from privfl.privacy.plans import Plan, PromiseSettings
from privfl.tables import narrow


def planned(plan: Plan, data: FederatedData, cohort: tuple[int, ...], aggregator: Aggregator) -> dict[Account, Event]:
    """The privacy events of a round with that cohort, by account."""
    sizes = {account: _deciding_size(plan, data, account) for account in _accounts(plan, cohort, aggregator)}
    events = {size: plan.planned(size) for size in set(sizes.values())}
    return {account: events[size] for account, size in sizes.items()}


def busiest_accounts(
    plan: Plan, data: FederatedData, cohorts: tuple[tuple[int, ...], ...], aggregator: Aggregator
) -> dict[Account, int]:
    """The number of charged rounds for the most frequently charged account among all accounts with the same event.

    No other account costs more, whatever the noise is. At most one account per client size is left.
    """
    rounds = Counter(account for cohort in cohorts for account in _accounts(plan, cohort, aggregator))
    found: dict[int, Account] = {}
    for account, times in rounds.items():
        size = _deciding_size(plan, data, account)
        if size not in found or times > rounds[found[size]]:
            found[size] = account
    return {account: rounds[account] for account in found.values()}


def histories(plan: Plan, data: FederatedData, rounds: Mapping[Account, int]) -> list[History]:
    """The privacy histories of accounts that are charged for so many rounds, under the plan's relation."""
    relation = plan.relation
    before = statistics_history(plan.statistics, relation)
    spent = [plan.planned(_deciding_size(plan, data, account)).releases(times, relation) for account, times in rounds.items()]
    return [before + history for history in spent]


def _accounts(plan: Plan, cohort: tuple[int, ...], aggregator: Aggregator) -> tuple[Account, ...]:
    """The accounts that a round with that cohort charges."""
    return () if skip_reason(cohort, aggregator, plan) is not None else plan.accounts(cohort)


def _deciding_size(plan: Plan, data: FederatedData, account: Account) -> int:
    """The client's number of examples if its event depends on it, else 0."""
    if account == "everybody" or plan.unit == "client":
        return 0
    return int(data.sizes()[account])


def empty_ledger(plan: Plan) -> Ledger:
    """The ledger at the beginning of a run with that plan; unused if the plan promises nothing."""
    return Ledger(plan.delta, plan.relation, statistics=plan.statistics)


def calibrated(
    plan: Plan,
    config: ExperimentConfig,
    data: FederatedData,
    cohorts: tuple[tuple[int, ...], ...],
    aggregator: Aggregator,
) -> Plan:
    """The plan with its final noise: the smallest with which no account exceeds the target over the whole run.

    If the plan stands for a larger federation, the target applies to the run of that federation.

    Raises:
        ConfigError: no round trains anybody, or no noise reaches the target.
    """
    if plan.noise_multiplier is not None:
        return plan
    target = narrow(config.privacy, PromiseSettings).target_epsilon
    assert target is not None, "a promise has a noise multiplier or a target"

    if not any(planned(plan.candidate(1.0), data, cohort, aggregator) for cohort in cohorts):
        why = next((why for cohort in cohorts if (why := skip_reason(cohort, aggregator, plan)) is not None), "no round")
        # If cohorts have a fixed size, the configuration has already been checked: the size is large enough.
        raise ConfigError(
            f"privacy.target_epsilon: no round would train anybody ({why}); raise cohort.size, or give more rounds"
        )

    rounds = busiest_accounts(plan, data, cohorts, aggregator)

    def spent(noise: float) -> list[History]:
        candidate = plan.candidate(noise)
        if (imagined := candidate.extrapolated()) is not None:
            return [imagined.releases(len(cohorts), candidate.relation)]
        return histories(candidate, data, rounds)

    try:
        return plan.calibrated(accounting.calibrate(spent, target, plan.delta))
    except ConfigError as error:
        raise ConfigError(f"{error}{plan.calibration_hint}") from None
    except PrivacyError as error:
        raise ConfigError(f"privacy.target_epsilon = {target:g}: {error}, or lower it") from None
