"""Several runs side by side: what differs, what came out, and what privacy cost in accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from privfl.config import ExperimentConfig
from privfl.learning.tasks import Figure
from privfl.records import Interval, PrivacyResult
from privfl.report.cost import Overhead
from privfl.report.curves import PERCENT, one_headline, scaled_by
from privfl.report.drawing import INK, MUTED, RULE, SERIES, Drawing, blank, finish, labelled, marker
from privfl.report.headline import LOW_FPR
from privfl.report.recorded import Run, rate_at
from privfl.report.wording import (
    axis_of,
    capital,
    duration,
    epsilon,
    level,
    measured,
    measured_range,
    percent,
    percent_range,
    scientific,
)

Tagged = Sequence[tuple[str, Run]]
"""Runs, each with the letter by which figures and tables speak of it."""

Cell = tuple[str, str]
"""A figure, and the interval or terms beneath it."""


@dataclass(frozen=True)
class Row:
    """One run in the table; ``link`` is the page of that run, where there is one, ``paired`` with which other run it is."""

    tag: str
    name: str
    link: str | None
    paired: str
    quality: Cell
    promised: Cell
    found: Cell
    measured: Cell
    overhead: Cell


def tagged(runs: Sequence[Run]) -> Tagged:
    """A letter for each run: A, B, ..., Z, A2, ..."""
    return [
        (ascii_uppercase[index % 26] + (str(index // 26 + 1) if index >= 26 else ""), run) for index, run in enumerate(runs)
    ]


def row(run: Run, tag: str, link: str | None, paired: str = "") -> Row:
    """The figures of one run."""
    result = run.result
    headline, quality = run.headline, result.evaluation.headline
    promised, found, bound, overhead = (
        ("no promise", ""),
        ("not measured", ""),
        ("not measured", ""),
        ("off", "updates in the clear"),
    )
    if result.privacy is not None:
        promised = (epsilon(result.privacy.epsilon), _terms(result.privacy))
    if run.leakage is not None:
        tpr = _tpr(run)
        found = ("not resolvable", "") if tpr is None else (percent(tpr.value, 2), percent_range(tpr, 2))
        bound = (f"≥ {epsilon(run.leakage.best.epsilon_lower)}", f"{level(run.leakage.best.level)} confidence")
    if result.hides_updates:
        spent = Overhead.of(run)
        overhead = (f"{spent.extra} bytes", f"{duration(spent.client)} a client, {duration(spent.server)} at the server")
    shown = measured(headline, quality.value) + ("" if headline.title == "accuracy" else f" {headline.title}")
    return Row(tag, run.title, link, paired, (shown, measured_range(headline, quality)), promised, found, bound, overhead)


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Each setting that is not the same in all runs, with its value in each; an absent one is a dash."""
    found = differing([run.config for run in runs])
    return [(key, ["–" if value is None else _shown(value) for value in values]) for key, values in found.items()]


def differing(configs: Sequence[ExperimentConfig]) -> dict[str, list[object]]:
    """Each setting but the name that is not the same in all configurations, with its value in each; None: it is absent.

    A list is given as the words that the page shows for it.
    """
    # A configuration does not write down the task that it has by default.
    flat = [{"task.kind": config.task.kind, **dict(_flat(config.model_dump(exclude_none=True), ""))} for config in configs]
    keys = dict.fromkeys(key for settings in flat for key in settings if key != "name")
    values = {key: [_plain(settings.get(key)) for settings in flat] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def drawings(runs: Tagged) -> list[Drawing]:
    """The headline against the ε that was promised, and against what the best attack found, where any was run.

    Nothing is drawn of runs whose tasks have different headlines.
    """
    if one_headline(runs) is None:
        return []
    found = [_against_promise(runs)]
    if any(_tpr(run) is not None for _, run in runs):
        found.append(_against_leakage(runs))
    return found


def _against_promise(runs: Tagged) -> Drawing:
    figure, axes = blank(height=250)
    headline = runs[0][1].headline
    promised = [run.result.privacy.epsilon for _, run in runs if run.result.privacy is not None]
    low, high = _around([value for value in promised if value > 0])
    # What was promised nothing has no place on the axis; it gets one beyond its end.
    beyond = high * (high / low) ** 0.14
    axes.set_xscale("log")
    for index, (tag, run) in enumerate(runs):
        _point(axes, beyond if run.result.privacy is None else max(run.result.privacy.epsilon, low), run, tag, index)
    ticks = {value: epsilon(value) for value in _apart([value for value in promised if value > 0], low, high)}
    if len(promised) < len(runs):
        axes.axvline(high * (beyond / high) ** 0.35, color=RULE, linewidth=1)
        ticks[beyond] = "none"
        high = beyond * (high / low) ** 0.1
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)
    scaled_by(axes, headline)
    labelled(axes, "promised ε", f"test {axis_of(headline)}")
    alt = "; ".join(f"{tag}: {_promise(run)}, {measured(headline, run.result.evaluation.headline.value)}" for tag, run in runs)
    caption = (
        f"{_better(headline)} ε at different δ, or for different units, are not comparable. Bars are intervals of the "
        f"{headline.title}."
    )
    if any(run.result.privacy is not None and run.result.privacy.extrapolated is not None for _, run in runs):
        caption += " Where a run stands for a larger federation, its place is at the ε of the noise that it executed."
    alt = f"Test {headline.title} against the promised ε. {alt}."
    return finish(figure, "promise", f"{capital(headline.title)} and the promise", alt, caption)


def _against_leakage(runs: Tagged) -> Drawing:
    figure, axes = blank(height=250)
    headline = runs[0][1].headline
    shown = []
    for index, (tag, run) in enumerate(runs):
        tpr, quality = _tpr(run), run.result.evaluation.headline.value
        if tpr is None:
            continue
        shown.append(f"{tag}: {percent(tpr.value, 2)} found, {headline.title} {measured(headline, quality)}")
        axes.plot([tpr.low, tpr.high], [quality, quality], color=SERIES[index % 4], linewidth=1.2)
        _point(axes, tpr.value, run, tag, index)
    axes.axvline(LOW_FPR, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xlim(left=0)
    axes.annotate(
        "guessing", (LOW_FPR, 1), (-2, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
        color=MUTED, fontsize=10, rotation=90, ha="right", va="top",
    )  # fmt: skip
    labelled(axes, "members found (TPR) at 1 % FPR, %", f"test {axis_of(headline)}")
    axes.xaxis.set_major_formatter(PERCENT)
    scaled_by(axes, headline)
    alt = f"Test {headline.title} against what the best attack found. {'; '.join(shown)}."
    caption = f"{_better(headline)} Bars are 95 % intervals. A run may look safe here because the attacks on it were weak."
    return finish(figure, "leakage", f"{capital(headline.title)} and what was found", alt, caption)


def _point(axes: Axes, x: float, run: Run, tag: str, index: int) -> None:
    quality, colour = run.result.evaluation.headline, SERIES[index % 4]
    axes.plot([x, x], [quality.low, quality.high], color=colour, linewidth=1.2)
    axes.plot([x], [quality.value], color=colour, marker=marker(index), markersize=7, linestyle="none")
    axes.annotate(tag, (x, quality.value), (7, 5), textcoords="offset points", color=INK, fontsize=11)


def _better(headline: Figure) -> str:
    return f"{'Up' if headline.higher_is_better else 'Down'} and to the left is better."


def _around(values: Sequence[float]) -> tuple[float, float]:
    """An interval with some room on both sides."""
    return (min(values) / 1.8, max(values) * 1.8) if values else (0.1, 10.0)


def _apart(values: Sequence[float], low: float, high: float) -> list[float]:
    """Of the values that were run, those whose labels do not touch on a logarithmic axis from ``low`` to ``high``."""
    kept: list[float] = []
    for value in sorted(set(values)):
        letters = max(len(epsilon(value)), len(epsilon(kept[-1]))) if kept else 0
        if not kept or math.log(value / kept[-1]) >= letters * _LETTER * math.log(high / low):
            kept.append(value)
    return kept


_LETTER = 0.023
"""The width of a label's letter, as a share of the axis'."""


def _terms(privacy: PrivacyResult) -> str:
    """What the figure is of; an extrapolated ε stands here, beside the executed one and never in its place."""
    terms = f"per {privacy.unit}, δ = {scientific(privacy.delta)}"
    if privacy.extrapolated is None:
        return terms
    return f"executed, {terms}; the extrapolated ε = {epsilon(privacy.extrapolated.epsilon)} is of no run"


def _promise(run: Run) -> str:
    privacy = run.result.privacy
    if privacy is None:
        return "no promise"
    if privacy.extrapolated is None:
        return f"ε = {epsilon(privacy.epsilon)}"
    return f"ε = {epsilon(privacy.epsilon)} executed, {epsilon(privacy.extrapolated.epsilon)} extrapolated"


def _tpr(run: Run) -> Interval | None:
    found = rate_at(run.leakage.best.rates, LOW_FPR) if run.leakage else None
    return found.tpr if found else None


def _flat(table: Mapping[str, Any], at: str) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in table.items():
        pairs += _flat(value, f"{at}{key}.") if isinstance(value, Mapping) else [(at + key, value)]
    return pairs


def _plain(value: object) -> object:
    return _shown(value) if isinstance(value, (list, tuple)) else value


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item.get("kind", item)) if isinstance(item, Mapping) else str(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
