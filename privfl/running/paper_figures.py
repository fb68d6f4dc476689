"""The figures that rows of papers claim, read from a finished run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from privfl.auditing.questions.membership import AttackRecord, MembershipFinding
from privfl.errors import ConfigError
from privfl.learning.tasks import Task
from privfl.papers import Figure
from privfl.records import Evaluation, Result
from privfl.running.run_folder import RunFolder
from privfl.shelves import nearest
from privfl.tables import narrow

Curve = Sequence[tuple[int, float]]
"""Rounds done, ascending, each with a value."""


def figure_value(figure: Figure, folder: RunFolder) -> float | None:
    """The figure of a finished run; None if a target was not reached.

    Raises:
        ConfigError: the run has no such figure; the message names those that it has.
    """
    part, _, name = figure.metric.partition(".")
    if figure.rounds_to is not None:
        assert figure.target is not None
        return rounds_to(_curve(folder, figure.rounds_to), figure.target, falling=not _rises(folder, figure.rounds_to))
    if part == "test":
        return _read(_curve(folder, name), figure, falling=not _rises(folder, name))
    if part in ("clients", "personal"):
        return _read(_of_clients(folder, part, name), figure, falling=not _rises(folder, folder.result.evaluation.name))
    if part == "train":
        return folder.result.train
    if part == "clusters":
        return _in_group(folder)
    if figure.metric in _MEANS:
        return _MEANS[figure.metric](folder.result)
    if part.startswith("group:"):
        return _of_group(folder, figure.metric.removeprefix("group:"))
    if part.startswith("client:"):
        return _of_client(folder, figure.metric.removeprefix("client:"))
    if part.startswith("epsilon"):
        return _price(prices_of(folder), figure.metric.partition(":")[2])
    return _of_attack(folder, figure.metric)


def rounds_to(curve: Curve, target: float, *, falling: bool = False) -> float | None:
    """The number of rounds until the running maximum reaches the target, linearly interpolated (McMahan 2017, section 3).

    Args:
        curve: the metric after rounds.
        target: the value to be reached.
        falling: whether smaller is better, so that the running minimum counts.

    Returns:
        None if it is not reached. If the first evaluation reaches it, the result is that round.
    """
    sign = -1.0 if falling else 1.0
    best: tuple[int, float] | None = None
    for rounds, value in curve:
        if best is not None and sign * value <= sign * best[1]:
            # The running maximum stays, and the line begins at its last round.
            best = (rounds, best[1])
            continue
        if sign * value >= sign * target:
            if best is None:
                return float(rounds)
            return best[0] + (target - best[1]) / (value - best[1]) * (rounds - best[0])
        best = (rounds, value)
    return None


def prices_of(folder: RunFolder) -> dict[str, float]:
    """The run's ε by each accountant, under the plan's own relation; empty if nothing was promised."""
    privacy = folder.result.privacy
    if privacy is None:
        return {}
    return {one.accountant: one.epsilon for one in privacy.prices if one.relation == privacy.relation}


def _price(prices: Mapping[str, float], accountant: str) -> float:
    if not prices:
        raise ConfigError("paper.metric = 'epsilon': the configuration promises nothing; set privacy, or another metric")
    if accountant and accountant not in prices:
        raise ConfigError(f"paper.metric = 'epsilon:{accountant}': cannot price this plan; {nearest(accountant, [*prices])}")
    return prices[accountant] if accountant else next(iter(prices.values()))


def _curve(folder: RunFolder, metric: str) -> Curve:
    known = folder.result.evaluation.metrics
    if metric not in known:
        raise ConfigError(f"paper.metric = 'test.{metric}': {nearest(metric, [*known])}")
    return [(round_, one.metrics[metric].value) for round_, one in _evaluations(folder)]


def _evaluations(folder: RunFolder) -> list[tuple[int, Evaluation]]:
    return [(record.round + 1, record.evaluation) for record in folder.rounds() if record.evaluation is not None]


def _rises(folder: RunFolder, metric: str) -> bool:
    return narrow(folder.config.task, Task).figures[metric].higher_is_better


def _of_clients(folder: RunFolder, part: str, statistic: str) -> Curve:
    spreads = [(round_, one.clients if part == "clients" else one.personal) for round_, one in _evaluations(folder)]
    found = [(round_, getattr(spread, statistic)) for round_, spread in spreads if spread is not None]
    if not found:
        why = "no client has held-out examples; raise data.holdout" if part == "clients" else "no client has a model of its own"
        raise ConfigError(f"paper.metric = '{part}.{statistic}': {why}")
    return found


def _in_group(folder: RunFolder) -> float:
    if folder.result.in_group is None:
        raise ConfigError(
            "paper.metric = 'clusters.in_group': needs clients in groups and several global models; set data.rotations, and "
            "algorithm.kind = 'ifca', 'kmeans' or 'cfl'"
        )
    return folder.result.in_group


def _read(curve: Curve, figure: Figure, *, falling: bool) -> float:
    values = [value for _, value in curve]
    match figure.reading:
        case "last":
            return values[-1]
        case "best":
            return min(values) if falling else max(values)
        case "mean_of_last_10":
            return float(np.mean(values[-10:]))


def _mean_of_groups(result: Result) -> float:
    if not result.groups:
        raise ConfigError("paper.metric = 'groups.mean': the data name no groups of the test split")
    return float(np.mean([one.value for one in result.groups.values()]))


def _mean_alone(result: Result) -> float:
    if result.personal is None:
        raise ConfigError("paper.metric = 'local.mean': belongs to a run whose clients have models of their own")
    return result.personal.mean["local"]


_MEANS: Final[Mapping[str, Callable[[Result], float]]] = {"groups.mean": _mean_of_groups, "local.mean": _mean_alone}
"""Figures at the end of a run that have no curve."""


def _of_group(folder: RunFolder, group: str) -> float:
    known = folder.result.groups
    if group not in known:
        raise ConfigError(f"paper.metric = 'group:{group}': is no group of the test split; {nearest(group, [*known])}")
    return known[group].value


def _of_client(folder: RunFolder, client: str) -> float:
    found = dict(zip(folder.partition.clients, folder.result.clients, strict=False))
    known = {name: value for name, value in found.items() if value is not None}
    if client not in known:
        raise ConfigError(f"paper.metric = 'client:{client}': has no examples of its own; {nearest(client, [*known])}")
    return known[client]


def _of_attack(folder: RunFolder, metric: str) -> float:
    records = [one for finding in folder.findings if isinstance(finding, MembershipFinding) for one in finding.attacks]
    return attack_figure(records, metric)


def attack_named(metric: str) -> tuple[str, str | None, str]:
    """Attack, variant and figure of a metric ``attack:<name>[<variant>]:<figure>``; None for the variant if none is named."""
    parts = re.fullmatch(r"attack:([^\[:]+)(?:\[(.+)\])?:(\w+)", metric)
    assert parts is not None, metric
    return parts[1], parts[2], parts[3]


def attack_figure(records: Sequence[AttackRecord], metric: str) -> float:
    """A figure of an attack on all candidates: of the variant, or the largest over the variants if none is named.

    Raises:
        ConfigError: the run was not attacked so, or the figure cannot be resolved.
    """
    attack, variant, name = attack_named(metric)
    known = sorted({f"{one.attack}[{one.variant}]" for one in records})
    chosen = [one for one in records if one.attack == attack and variant in (None, one.variant)]
    if not chosen:
        raise ConfigError(f"paper.metric = 'attack:{attack}': the run has no finding of it; {nearest(attack, known)}")
    if name == "auc":
        return max(one.auc.value for one in chosen)
    if name == "balanced_accuracy":
        return max(one.balanced_accuracy for one in chosen)
    percent = re.fullmatch(r"tpr_at_([\d_]+)pct_fpr", name)
    if percent is None:
        raise ConfigError(f"paper.metric: {name!r}: must be auc, balanced_accuracy or tpr_at_1pct_fpr")
    at = float(percent[1].replace("_", ".")) / 100
    rates = [rate.tpr.value for one in chosen for rate in one.rates if np.isclose(rate.fpr, at) and rate.tpr is not None]
    if not rates:
        raise ConfigError(f"paper.metric: {name!r}: the candidates do not resolve it; take a larger rate, or more candidates")
    return max(rates)
