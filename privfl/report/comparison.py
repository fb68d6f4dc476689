"""Several runs side by side: what differs, what came out, and what privacy cost in accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from privfl.report.cost import Overhead
from privfl.report.curves import PERCENT
from privfl.report.drawing import INK, MARKERS, MUTED, RULE, SERIES, Drawing, blank, finish, labelled
from privfl.report.headline import LOW_FPR
from privfl.report.recorded import Run, rate_at
from privfl.report.wording import duration, epsilon, level, percent, percent_range, scientific
from privfl.runs import Interval

Cell = tuple[str, str]
"""A figure, and the interval or terms beneath it."""


@dataclass(frozen=True)
class Row:
    """One run in the table; ``link`` is the page of that run, where there is one."""

    tag: str
    name: str
    link: str | None
    accuracy: Cell
    promised: Cell
    found: Cell
    measured: Cell
    overhead: Cell


def tags(runs: int) -> list[str]:
    """A letter for each run, by which figures and tables speak of it: A, B, ..., Z, A2, ..."""
    return [ascii_uppercase[index % 26] + (str(index // 26 + 1) if index >= 26 else "") for index in range(runs)]


def row(run: Run, tag: str, link: str | None) -> Row:
    """The figures of one run."""
    result = run.result
    accuracy = result.evaluation.accuracy
    promised, found, measured, overhead = ("no promise", ""), ("not measured", ""), ("not measured", ""), ("off", "updates in the clear")
    if result.privacy is not None:
        promised = (epsilon(result.privacy.epsilon), f"per {result.privacy.unit}, δ = {scientific(result.privacy.delta)}")
    if run.leakage is not None:
        tpr = _tpr(run)
        found = ("not resolvable", "") if tpr is None else (percent(tpr.value, 2), percent_range(tpr, 2))
        measured = (f"≥ {epsilon(run.leakage.best.epsilon_lower)}", f"{level(run.leakage.best.level)} confidence")
    if result.hides_updates:
        spent = Overhead.of(run)
        overhead = (f"{spent.extra} bytes", f"{duration(spent.client)} a client, {duration(spent.server)} at the server")
    return Row(tag, run.config.name, link, (percent(accuracy.value), percent_range(accuracy)), promised, found, measured, overhead)


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Each setting that is not the same in all runs, with its value in each; an absent one is a dash."""
    flat = [dict(_flat(run.config.model_dump(exclude_none=True), "")) for run in runs]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    values = {key: [_shown(settings[key]) if key in settings else "–" for settings in flat] for key in keys if key != "name"}
    return [(key, row) for key, row in values.items() if len(set(row)) > 1]


def drawings(runs: Sequence[Run], tags: Sequence[str]) -> list[Drawing]:
    """Accuracy against the ε that was promised, and against what the best attack found, where any was run."""
    found = [_against_promise(runs, tags)]
    if any(_tpr(run) is not None for run in runs):
        found.append(_against_leakage(runs, tags))
    return found


def _against_promise(runs: Sequence[Run], tags: Sequence[str]) -> Drawing:
    figure, axes = blank(height=250)
    finite = [run.result.privacy.epsilon for run in runs if run.result.privacy is not None and run.result.privacy.epsilon > 0]
    low, high = (min(finite) / 1.8, max(finite) * 1.8) if finite else (0.1, 10.0)
    unbounded = high * (high / low) ** 0.14
    axes.set_xscale("log")
    for index, (run, tag) in enumerate(zip(runs, tags, strict=True)):
        privacy = run.result.privacy
        _point(axes, unbounded if privacy is None else max(privacy.epsilon, low), run, tag, index)
    labelled(axes, "promised ε", "test accuracy, %")
    ticks = _ticks(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    if any(run.result.privacy is None for run in runs):
        axes.axvline(high * (unbounded / high) ** 0.35, color=RULE, linewidth=1)
        axes.set_xticks([*ticks, unbounded], [*(f"{tick:g}" for tick in ticks), "none"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, unbounded * (high / low) ** 0.1 if any(run.result.privacy is None for run in runs) else high)
    axes.yaxis.set_major_formatter(PERCENT)
    alt = "Test accuracy against the promised ε. " + "; ".join(f"{tag}: {_promise(run)}, {percent(run.result.evaluation.accuracy.value)}" for run, tag in zip(runs, tags, strict=True)) + "."  # fmt: skip
    caption = "Up and to the left is better. ε at different δ, or for different units, are not comparable. Bars are intervals of the accuracy."
    return finish(figure, "promise", "Accuracy and the promise", alt, caption)


def _against_leakage(runs: Sequence[Run], tags: Sequence[str]) -> Drawing:
    figure, axes = blank(height=250)
    shown = []
    for index, (run, tag) in enumerate(zip(runs, tags, strict=True)):
        tpr = _tpr(run)
        if tpr is None:
            continue
        shown.append(f"{tag}: {percent(tpr.value, 2)} found, accuracy {percent(run.result.evaluation.accuracy.value)}")
        axes.plot([tpr.low, tpr.high], [run.result.evaluation.accuracy.value] * 2, color=SERIES[index % 4], linewidth=1.2)
        _point(axes, tpr.value, run, tag, index)
    axes.axvline(LOW_FPR, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xlim(left=0)
    axes.annotate("guessing", (LOW_FPR, 0), (3, 4), xycoords=("data", "axes fraction"), textcoords="offset points", color=MUTED, fontsize=10)
    labelled(axes, "members found (TPR) at 1 % FPR, %", "test accuracy, %")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    caption = "Up and to the left is better. Bars are 95 % intervals. A run may look safe here because the attacks on it were weak."
    return finish(figure, "leakage", "Accuracy and what was found", f"Test accuracy against what the best attack found. {'; '.join(shown)}.", caption)


def _point(axes: Axes, x: float, run: Run, tag: str, index: int) -> None:
    accuracy = run.result.evaluation.accuracy
    axes.plot([x, x], [accuracy.low, accuracy.high], color=SERIES[index % 4], linewidth=1.2)
    axes.plot([x], [accuracy.value], color=SERIES[index % 4], marker=MARKERS[index % len(MARKERS)], markersize=7, linestyle="none")
    axes.annotate(tag, (x, accuracy.value), (7, 5), textcoords="offset points", color=INK, fontsize=11)


def _ticks(low: float, high: float) -> list[float]:
    grid = [mantissa * 10.0**power for power in range(-6, 7) for mantissa in (1, 2, 5)]
    inside = [tick for tick in grid if low <= tick <= high]
    return inside if len(inside) <= 6 else [tick for tick in inside if np.isclose(np.log10(tick) % 1, 0)]


def _promise(run: Run) -> str:
    return "no promise" if run.result.privacy is None else f"ε = {epsilon(run.result.privacy.epsilon)}"


def _tpr(run: Run) -> Interval | None:
    found = rate_at(run.leakage.best.rates, LOW_FPR) if run.leakage else None
    return found.tpr if found else None


def _flat(table: Mapping[str, Any], at: str) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in table.items():
        pairs += _flat(value, f"{at}{key}.") if isinstance(value, Mapping) else [(at + key, value)]
    return pairs


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item.get("kind", item)) if isinstance(item, Mapping) else str(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
