"""The points of a frontier: runs that differ in nothing but their seed are one point, with means over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from privfl.adversaries import ADVERSARIES, Adversary
from privfl.auditing.evaluation import LOW_FPR
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import ConfigError
from privfl.learning.tasks import Figure
from privfl.records import Interval
from privfl.report.differences import differing
from privfl.report.roc import rate_at
from privfl.report.run_records import RunRecords
from privfl.report.wording import NBSP

LEVEL = 0.95
"""The level of every interval over seeds."""


@dataclass(frozen=True)
class OverSeeds:
    """A figure over seeds.

    Args:
        value: the mean.
        half: half of the width of the interval.
        low: the lower end of the interval, within the figure's range.
        high: the upper end.
        seeds: the number of seeds. With one seed the interval is the run's own, or there is none.
        deviation: the standard deviation over seeds; 0 with one seed.
    """

    value: float
    half: float
    low: float
    high: float
    seeds: int
    deviation: float = 0.0


def over_seeds(values: Sequence[float], alone: Interval | None = None, share: bool = False) -> OverSeeds:
    """The mean with Student's t interval.

    Args:
        values: one figure a seed, at least one.
        alone: the figure's own interval, which stands if there is one seed.
        share: whether the figure is in [0, 1].
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        low, high = (alone.low, alone.high) if alone is not None else (mean, mean)
        return OverSeeds(mean, (high - low) / 2, low, high, 1)
    deviation = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    low, high = mean - half, mean + half
    ends = (max(low, 0.0), min(high, 1.0)) if share else (low, high)
    return OverSeeds(mean, half, *ends, len(values), deviation)


def welch(first: Sequence[float], other: Sequence[float]) -> OverSeeds:
    """Return the difference of two means, ``other`` less ``first``, with Welch's t interval (Welch 1947).

    With one value on a side there is no interval: both of its ends are the difference.
    """
    difference = float(np.mean(other) - np.mean(first))
    fewest = min(len(first), len(other))
    if fewest < 2 or (np.ptp(first) == 0 and np.ptp(other) == 0):
        return OverSeeds(difference, 0.0, difference, difference, fewest)
    interval = stats.ttest_ind(other, first, equal_var=False).confidence_interval(LEVEL)
    low, high = float(interval.low), float(interval.high)
    return OverSeeds(difference, (high - low) / 2, low, high, fewest)


@dataclass(frozen=True)
class Leakage:
    """The membership that one adversary found at one point.

    Args:
        tpr: the best attack's TPR at an FPR of 1 %, chosen on one half of the candidates and measured on the other; None if the
            sample does not resolve it in every run.
        auc: the best attack's AUC on that other half.
        epsilon: the lower bound on ε.
        best: the best attacks by name, the most frequent first.
    """

    tpr: OverSeeds | None
    auc: OverSeeds
    epsilon: OverSeeds
    best: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One setting.

    Args:
        settings: key -> value of the settings that vary, without the seed and without those that the promise stands for.
        promised: the largest ε over seeds; infinite without a promise.
        hides_updates: whether secure aggregation was on.
        quality: the headline metric on test data.
        leakage: what each adversary found; an adversary that had no attack is absent.
        bytes_up: all bytes that clients sent.
        seconds: wall-clock seconds of the run without its attacks.
        seeds: the seeds, in order.
        runs: the runs, in the order of the seeds.
    """

    settings: dict[str, str]
    promised: float
    hides_updates: bool
    quality: OverSeeds
    leakage: dict[Adversary, Leakage]
    bytes_up: OverSeeds
    seconds: OverSeeds
    seeds: tuple[int, ...]
    runs: tuple[RunRecords, ...]

    @property
    def promises(self) -> bool:
        """Whether an ε is promised."""
        return math.isfinite(self.promised)

    @property
    def words(self) -> str:
        """The setting in words: ``ε = 8, secure_sum``."""
        promise = f"ε{NBSP}={NBSP}{self.target:g}" if self.promises else "no promise"
        return ", ".join([promise, *(f"{_short(key)} {value}".strip() for key, value in self.settings.items())])

    @property
    def target(self) -> float:
        """The ε that the configuration aims at, or else the promised one; infinite without a promise.

        A run that stands for a larger federation aims at that federation's ε, which it does not promise.
        """
        aimed = getattr(self.runs[0].config.privacy, "target_epsilon", None)
        privacy = self.runs[0].result.privacy
        if aimed is None or (privacy is not None and privacy.extrapolated is not None):
            return self.promised if math.isinf(self.promised) else round(self.promised, 2)
        return float(aimed)


@dataclass(frozen=True)
class Measure:
    """The figure of leakage that stands for a point: the TPR at 1 % FPR if every run resolves it, or else the AUC.

    Args:
        label: its words, for an axis.
        short: its words, for a table.
        percent: whether it is shown in per cent.
        guessing: its value for an adversary that guesses.
    """

    label: str
    short: str
    percent: bool
    guessing: float

    @property
    def scale(self) -> float:
        """The factor to the unit that is shown."""
        return 100 if self.percent else 1

    def at(self, point: Point, adversary: Adversary) -> OverSeeds | None:
        """The figure of one adversary at one point; None if it had no attack."""
        leak = point.leakage.get(adversary)
        return None if leak is None else leak.tpr if self.percent else leak.auc


@dataclass(frozen=True)
class Frontier:
    """All points.

    Args:
        points: in the order of the runs.
        keys: the settings that vary, without the seed.
        headline: the metric of ``quality``.
        failed: name -> error of each run that could not be run, or failed.
    """

    points: tuple[Point, ...]
    keys: tuple[str, ...]
    headline: Figure
    failed: dict[str, str]

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """The adversaries that had an attack at any point."""
        return tuple(one for one in ADVERSARIES if any(one in point.leakage for point in self.points))

    @property
    def measure(self) -> Measure:
        """The figure of leakage that stands for each point."""
        if all(leak.tpr is not None for point in self.points for leak in point.leakage.values()):
            return Measure("members found (TPR) at 1 % FPR, %", "TPR at 1 % FPR", True, LOW_FPR)
        return Measure("AUC of the best attack", "AUC", False, 0.5)

    @property
    def seeds(self) -> int:
        """The fewest seeds of a point."""
        return min(len(point.seeds) for point in self.points)


def frontier(runs: Sequence[RunRecords], failed: dict[str, str]) -> Frontier:
    """Put runs together.

    Args:
        runs: finished runs, at least one.
        failed: name -> error of each run that is missing.

    Raises:
        ConfigError: the runs are on different data, or learn different tasks.
    """
    values = differing([run.config for run in runs])
    other = [key for key in values if key.startswith(("data.", "task."))]
    if other:
        first = next(value for value in values[other[0]] if value != values[other[0]][0])
        raise ConfigError(
            f"{other[0]}: {values[other[0]][0]} in one run and {first} in another; a frontier compares settings on one data "
            "set: make a frontier for each"
        )
    points, keys = points_of(runs)
    return Frontier(points, keys, runs[0].headline_metric, failed)


def points_of(runs: Sequence[RunRecords]) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    """Put runs together that differ in nothing but their seed; a run that is given or repeated with its seed counts once.

    Returns:
        the points in the order of the runs, and the settings that vary, without the seed and without those that the promise
        stands for.
    """
    values = differing([run.config for run in runs])
    moving = {key: each for key, each in values.items() if _chosen(key, each, values)}
    groups: dict[tuple[str, ...], list[RunRecords]] = {}
    for index, run in enumerate(runs):
        members = groups.setdefault(tuple(_shown(each[index]) for each in moving.values()), [])
        if not any((run.config.seed, run.result) == (other.config.seed, other.result) for other in members):
            members.append(run)
    points = [_point(members, _settings(moving, group)) for group, members in groups.items()]
    return tuple(points), tuple(key for key in moving if key not in _PROMISE)


_PROMISE = ("privacy.target_epsilon", "privacy.kind")
"""Settings that the promised ε stands for."""


def _chosen(key: str, each: Sequence[object], values: Mapping[str, Sequence[object]]) -> bool:
    """Whether a user chose that a setting varies. Settings that come with the choice of an item do not count."""
    if key in {"seed", "attacks.run"}:
        return False
    parts = key.split(".")
    tables = [".".join(parts[:end]) for end in range(1, len(parts)) if parts[end:] != ["kind"]]
    for kinds in (values[f"{table}.kind"] for table in tables if f"{table}.kind" in values):
        if not any(len({_shown(value) for value, kind in zip(each, kinds, strict=True) if kind == one}) > 1 for one in kinds):
            return False
    return True


def _short(key: str) -> str:
    return "" if key.endswith(".kind") else key.rpartition(".")[2]


def _settings(keys: Iterable[str], group: Iterable[str]) -> dict[str, str]:
    return {key: value for key, value in zip(keys, group, strict=True) if key not in _PROMISE}


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _point(runs: Sequence[RunRecords], settings: dict[str, str]) -> Point:
    runs = sorted(runs, key=lambda run: run.config.seed)
    promised = [math.inf if run.result.privacy is None else run.result.privacy.epsilon for run in runs]
    quality = [run.result.evaluation.headline for run in runs]
    seconds = [math.fsum(timing.total for timing in run.timings) for run in runs]
    found = {who: _leakage(runs, who) for who in ADVERSARIES}
    return Point(
        settings=settings,
        promised=max(promised),
        hides_updates=runs[0].result.hides_updates,
        quality=over_seeds([one.value for one in quality], quality[0], runs[0].headline_metric.unit == "%"),
        leakage={who: one for who, one in found.items() if one is not None},
        bytes_up=over_seeds([float(run.result.bytes_up) for run in runs]),
        seconds=over_seeds(seconds),
        seeds=tuple(run.config.seed for run in runs),
        runs=tuple(runs),
    )


def _leakage(runs: Sequence[RunRecords], adversary: Adversary) -> Leakage | None:
    """The figures of one adversary; None unless it attacked every run."""
    findings = [run.finding("membership", adversary) for run in runs]
    known = [one for one in findings if isinstance(one, MembershipFinding)]
    if len(known) < len(runs):
        return None
    rates = [rate_at(one.best.rates, LOW_FPR) for one in known]
    tprs = [at.tpr for at in rates if at is not None and at.tpr is not None]
    names = [f"{one.best.attack}: {one.best.variant}" for one in known]
    areas = [one.best.auc for one in known]
    return Leakage(
        tpr=over_seeds([one.value for one in tprs], tprs[0], share=True) if len(tprs) == len(runs) else None,
        auc=over_seeds([one.value for one in areas], areas[0], share=True),
        epsilon=over_seeds([one.best.epsilon_lower for one in known]),
        best=tuple(sorted(dict.fromkeys(names), key=lambda name: (-names.count(name), name))),
    )
