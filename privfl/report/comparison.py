"""The comparison of several runs: runs that differ in nothing but their seed are one setting, with means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from privfl.adversaries import ADVERSARIES, Adversary
from privfl.learning.tasks import Figure
from privfl.records import PrivacyResult
from privfl.report import curves, late_clients, roc
from privfl.report.blocks import Block, Cell, Column, block_of
from privfl.report.cost import Overhead
from privfl.report.drawing import Drawing
from privfl.report.frontier import figures
from privfl.report.frontier.points import Frontier, Point, over_seeds, points_of, welch
from privfl.report.pairing import how_paired
from privfl.report.run_records import RunRecords
from privfl.report.table_files import Rows
from privfl.report.wording import NBSP, NNBSP, epsilon, measured, measured_range, percent, plural, scientific

Labelled = Sequence[tuple[str, Point]]
"""Settings, each with the words that name it on the page. No two settings have the same words."""

FindingKinds = Sequence[tuple[Block, str, Adversary]]
"""The kinds of finding that are compared: block, question and adversary."""


@dataclass(frozen=True)
class Difference:
    """The difference of a setting's metric from that of the first setting.

    Args:
        label: the words of the setting.
        quality: the difference of the means, and its interval.
        how: whether the runs are paired, and over how many seeds.
    """

    label: str
    quality: Cell
    how: str


def settings(runs: Sequence[RunRecords]) -> Labelled:
    """Put runs together to settings, and name each by the values that vary."""
    points, _ = points_of(runs)
    if len(points) == 1:
        return [(points[0].runs[0].title, points[0])]
    plain, plans = [point.words for point in points], [point.runs[0].config.privacy.kind for point in points]
    labels = [f"{words}, {plan}" if plain.count(words) > 1 else words for words, plan in zip(plain, plans, strict=True)]
    unique = [
        label if labels.count(label) == 1 else f"{label} ({point.runs[0].title})"
        for label, point in zip(labels, points, strict=True)
    ]
    counted = [label if unique.count(label) == 1 else f"{label} {place + 1}" for place, label in enumerate(unique)]
    return list(zip(counted, points, strict=True))


def names(point: Point) -> list[str]:
    """Name each run of a setting by its seed; runs of one seed also by their folders."""
    seeds = [run.config.seed for run in point.runs]
    return [
        f"seed {run.config.seed}" + (f" ({run.path.resolve().name})" if seeds.count(run.config.seed) > 1 else "")
        for run in point.runs
    ]


def columns(named: Labelled) -> list[tuple[str, list[Cell]]]:
    """Return heading and cells of each column, one cell for each setting; columns that do not vary are left out."""
    points = [point for _, point in named]
    headlines = {point.runs[0].headline_metric.title for point in points}
    several = len(headlines) > 1
    quality = "test result" if several else f"test {headlines.pop()}"
    found = [("promised ε", [_promised(point) for point in points])]
    for block, question, adversary in finding_kinds([run for point in points for run in point.runs]):
        each = [[block.columns(run.finding(question, adversary), adversary) for run in point.runs] for point in points]
        for place, column in enumerate(each[0][0]):
            found.append((column.heading, [_folded([of_run[place] for of_run in of_runs]) for of_runs in each]))
    found.append(("secure aggregation", [_overhead(point) for point in points]))
    varying = [(heading, cells) for heading, cells in found if len(points) == 1 or len(set(cells)) > 1]
    return [(quality, [_quality(point, several=several) for point in points]), *varying]


def table(named: Labelled) -> Rows:
    """Return the table for a file: settings, seeds, and the columns as they are shown, with their intervals."""
    shown = columns(named)
    header = ["setting", "seeds", *(heading for heading, _ in shown)]
    flat = [[f"{value} ({' '.join(under.split())})" if under else value for value, under in cells] for _, cells in shown]
    return [header, *([label, str(len(point.runs)), *row] for (label, point), *row in zip(named, *flat, strict=True))]


def compared(named: Labelled) -> list[Difference]:
    """Compare each setting's metric with that of the first; empty if the metrics differ."""
    if shared_headline(named) is None:
        return []
    (_, first), *others = named
    return [_difference(label, point, first) for label, point in others]


def drawings(named: Labelled) -> list[Drawing]:
    """Draw metric, leakage and cost against the promise, the ROCs of the settings, and the metric and ε over rounds.

    Figures that need one metric are left out if the settings have several.
    """
    headline, points = shared_headline(named), tuple(point for _, point in named)
    found = []
    if len(named) > 1 and headline is not None:
        found += figures.drawings(Frontier(points, tuple(points[0].settings), headline, {}))
    for adversary in ADVERSARIES:
        found += roc.of_settings([(label, point.runs[0]) for label, point in named], adversary)
    evaluated = [(label, point.runs) for label, point in named]
    return [*found, *curves.comparison_drawings(evaluated, headline), *late_clients.settings_drawings(evaluated, headline)]


def shared_headline(named: Labelled) -> Figure | None:
    """Return the display of the headline metric; None if the settings have different ones."""
    found = {point.runs[0].headline_metric for _, point in named}
    return found.pop() if len(found) == 1 else None


def finding_kinds(runs: Sequence[RunRecords]) -> FindingKinds:
    """Return the kinds of finding that any of the runs has; if there are none, membership by the external adversary."""
    keys = dict.fromkeys((one.question, one.adversary) for run in runs for one in run.findings)
    pairs = [(block_of(question), question, adversary) for question, adversary in keys or [("membership", ADVERSARIES[0])]]
    return [(found, question, adversary) for found, question, adversary in pairs if found is not None]


def _quality(point: Point, *, several: bool) -> Cell:
    """Return the mean of the metric with its interval over seeds; of one run, the interval of its test split."""
    figure, found = point.runs[0].headline_metric, point.quality
    shown = measured(figure, found.value) + (f" {figure.title}" if several and figure.title != "accuracy" else "")
    if found.seeds == 1:
        return shown, measured_range(figure, point.runs[0].result.evaluation.headline)
    return shown, _over(found.low, found.high, found.deviation, lambda value: measured(figure, value))


def _over(low: float, high: float, deviation: float, words: Callable[[float], str]) -> str:
    return f"{words(low)}{NBSP}–{NBSP}{words(high)}\ndeviation {words(deviation)}"


def _promised(point: Point) -> Cell:
    privacy = point.runs[0].result.privacy
    return ("no promise", "") if privacy is None else (epsilon(point.promised), _terms(privacy))


def _folded(columns: Sequence[Column]) -> Cell:
    """Return one cell for the runs of a setting: the mean over seeds, or else the values one after another."""
    if len(columns) == 1:
        return columns[0].cell
    numbers = [column.figure for column in columns if column.figure is not None]
    if len(numbers) < len(columns):
        return "; ".join(dict.fromkeys(column.cell[0] for column in columns)), ""
    first = columns[0]
    found = over_seeds(numbers, share=first.share)
    return f"{first.prefix}{first.words(found.value)}", _over(found.low, found.high, found.deviation, first.words)


def _overhead(point: Point) -> Cell:
    if not point.hides_updates:
        return "off", ""
    return f"{Overhead.of(point.runs[0]).extra} bytes", ""


def _difference(label: str, point: Point, first: Point) -> Difference:
    by_seed = {run.config.seed: run for run in first.runs}
    pairs = [(by_seed[run.config.seed], run) for run in point.runs if run.config.seed in by_seed]
    how, (one, other) = how_paired(pairs), (_values(first), _values(point))
    figure = point.runs[0].headline_metric
    if how == "paired" and len(pairs) == len(one) == len(other):
        found = over_seeds([b - a for a, b in zip(one, other, strict=True)])
        how = f"paired, over {plural(len(pairs), 'seed')}"
    else:
        found = welch(one, other)
        how = f"{how}, {len(other)} against {plural(len(one), 'seed')}"
    if min(len(one), len(other)) == 1:
        return Difference(label, (_signed(figure, found.value), "no interval"), f"{how}: it may be chance")
    return Difference(
        label, (_signed(figure, found.value), f"{_signed(figure, found.low)} to {_signed(figure, found.high)}"), how
    )


def _values(point: Point) -> list[float]:
    return [run.result.evaluation.headline.value for run in point.runs]


def _signed(figure: Figure, value: float) -> str:
    sign = "+" if value >= 0 else "−"
    if figure.unit == "%":
        return f"{sign}{percent(abs(value)).removesuffix('%').rstrip(NNBSP)}{NNBSP}points"
    return f"{sign}{measured(figure, abs(value))}"


def _terms(privacy: PrivacyResult) -> str:
    """Return the terms of a promised ε; an extrapolated ε is only named here, beside the ε of the executed noise."""
    terms = f"per {privacy.unit}, δ = {scientific(privacy.delta)}"
    if privacy.extrapolated is None:
        return terms
    return f"executed, {terms}; the extrapolated ε = {epsilon(privacy.extrapolated.epsilon)} belongs to no run"
