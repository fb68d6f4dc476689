"""The comparison of several runs: their results, their settings, and the cost of privacy in accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from matplotlib.ticker import NullFormatter

from privfl.adversaries import ADVERSARIES, Adversary
from privfl.config import ExperimentConfig
from privfl.records import PrivacyResult
from privfl.report.blocks import Block, Cell, Column, TaggedRuns, block_of
from privfl.report.cost import Overhead
from privfl.report.curves import format_metric_axis, shared_headline
from privfl.report.drawing import RULE, Drawing, draw_run, empty_figure, label_axes, to_drawing
from privfl.report.run_records import RunRecords
from privfl.report.wording import axis_of, better_direction, capitalize, duration, epsilon, measured, measured_range, scientific

FindingKinds = Sequence[tuple[Block, str, Adversary]]
"""The kinds of finding that are compared: block, question and adversary."""


@dataclass(frozen=True)
class RunRow:
    """One run's row in the table.

    Args:
        tag: the letter of the run.
        name: the title of the run.
        link: the path of its page, relative to this page; None if it has none.
        paired: a phrase that says with which earlier run it is paired; empty for the first run.
        quality: the headline metric on the test split.
        promised: the promised ε.
        found: the cells of each kind of finding.
        overhead: the overhead of secure aggregation.
    """

    tag: str
    name: str
    link: str | None
    paired: str
    quality: Cell
    promised: Cell
    found: Sequence[Column]
    overhead: Cell


def tagged(runs: Sequence[RunRecords]) -> TaggedRuns:
    """Give each run a letter: A, B, ..., Z, A2, ..."""
    return [
        (ascii_uppercase[index % 26] + (str(index // 26 + 1) if index >= 26 else ""), run) for index, run in enumerate(runs)
    ]


def row(run: RunRecords, tag: str, link: str | None, finding_kinds: FindingKinds, paired: str = "") -> RunRow:
    """Return the row of one run; ``finding_kinds`` are the questions and adversaries that have columns."""
    result = run.result
    headline, quality = run.headline_metric, result.evaluation.headline
    promised, overhead = ("no promise", ""), ("off", "updates in the clear")
    if result.privacy is not None:
        promised = (epsilon(result.privacy.epsilon), _terms(result.privacy))
    found = [
        column
        for block, question, adversary in finding_kinds
        for column in block.columns(run.finding(question, adversary), adversary)
    ]
    if result.hides_updates:
        spent = Overhead.of(run)
        overhead = (f"{spent.extra} bytes", f"{duration(spent.client)} a client, {duration(spent.server)} at the server")
    shown = measured(headline, quality.value) + ("" if headline.title == "accuracy" else f" {headline.title}")
    return RunRow(tag, run.title, link, paired, (shown, measured_range(headline, quality)), promised, found, overhead)


def differences(runs: Sequence[RunRecords]) -> list[tuple[str, list[str]]]:
    """Return each setting that differs between the runs, with its value in each run; a dash if a run does not have it."""
    found = differing([run.config for run in runs])
    return [(key, ["–" if value is None else _shown(value) for value in values]) for key, values in found.items()]


def differing(configs: Sequence[ExperimentConfig]) -> dict[str, list[object]]:
    """Return each setting that differs between configurations, with its value in each; None if it is absent.

    The name is left out. A list is given as the words that the page shows for it.
    """
    # A configuration with the default task does not contain the key.
    flat = [{"task.kind": config.task.kind, **dict(_flat(config.model_dump(exclude_none=True), ""))} for config in configs]
    keys = dict.fromkeys(key for settings in flat for key in settings if key != "name")
    values = {key: [_plain(settings.get(key)) for settings in flat] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def drawings(runs: TaggedRuns) -> list[Drawing]:
    """Draw the headline metric against the promised ε, and the figures of each kind of finding.

    The list is empty if the runs' tasks have different headline metrics.
    """
    if shared_headline(runs) is None:
        return []
    found = [_against_promise(runs)]
    for block, _, adversary in finding_kinds([run for _, run in runs]):
        found += block.drawings(runs, adversary)
    return found


def finding_kinds(runs: Sequence[RunRecords]) -> FindingKinds:
    """Return the kinds of finding that any of the runs has; if there are none, membership by the external adversary."""
    keys = dict.fromkeys((one.question, one.adversary) for run in runs for one in run.findings)
    pairs = [(block_of(question), question, adversary) for question, adversary in keys or [("membership", ADVERSARIES[0])]]
    return [(found, question, adversary) for found, question, adversary in pairs if found is not None]


def _against_promise(runs: TaggedRuns) -> Drawing:
    figure, axes = empty_figure(height=250)
    headline = runs[0][1].headline_metric
    promised = [run.result.privacy.epsilon for _, run in runs if run.result.privacy is not None]
    low, high = _around([value for value in promised if value > 0])
    # A run without a promise has no ε; it is drawn beyond the end of the axis.
    beyond = high * (high / low) ** 0.14
    axes.set_xscale("log")
    for index, (tag, run) in enumerate(runs):
        at = beyond if run.result.privacy is None else max(run.result.privacy.epsilon, low)
        draw_run(axes, at, run.result.evaluation.headline, tag, index)
    ticks = {value: epsilon(value) for value in _apart([value for value in promised if value > 0], low, high)}
    if len(promised) < len(runs):
        axes.axvline(high * (beyond / high) ** 0.35, color=RULE, linewidth=1)
        ticks[beyond] = "none"
        high = beyond * (high / low) ** 0.1
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)
    format_metric_axis(axes, headline)
    label_axes(axes, "promised ε", f"test {axis_of(headline)}")
    alt = "; ".join(f"{tag}: {_promise(run)}, {measured(headline, run.result.evaluation.headline.value)}" for tag, run in runs)
    caption = (
        f"{better_direction(headline)} ε at different δ, or for different units, are not comparable. Bars are intervals of the "
        f"{headline.title}."
    )
    if any(run.result.privacy is not None and run.result.privacy.extrapolated is not None for _, run in runs):
        caption += " A run that stands for a larger federation is drawn at the ε of the noise that it executed."
    alt = f"Test {headline.title} against the promised ε. {alt}."
    return to_drawing(figure, "promise", f"{capitalize(headline.title)} and promised ε", alt, caption)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of a logarithmic axis around the values, with a margin on both sides."""
    return (min(values) / 1.8, max(values) * 1.8) if values else (0.1, 10.0)


def _apart(values: Sequence[float], low: float, high: float) -> list[float]:
    """Return the values whose labels do not overlap on a logarithmic axis from ``low`` to ``high``."""
    kept: list[float] = []
    for value in sorted(set(values)):
        letters = max(len(epsilon(value)), len(epsilon(kept[-1]))) if kept else 0
        if not kept or math.log(value / kept[-1]) >= letters * _LETTER * math.log(high / low):
            kept.append(value)
    return kept


_LETTER = 0.023
"""The width of a letter in a label, as a share of the width of the axis."""


def _terms(privacy: PrivacyResult) -> str:
    """Return the terms of a promised ε; an extrapolated ε is only named here, beside the ε of the executed noise."""
    terms = f"per {privacy.unit}, δ = {scientific(privacy.delta)}"
    if privacy.extrapolated is None:
        return terms
    return f"executed, {terms}; the extrapolated ε = {epsilon(privacy.extrapolated.epsilon)} belongs to no run"


def _promise(run: RunRecords) -> str:
    privacy = run.result.privacy
    if privacy is None:
        return "no promise"
    if privacy.extrapolated is None:
        return f"ε = {epsilon(privacy.epsilon)}"
    return f"ε = {epsilon(privacy.epsilon)} executed, {epsilon(privacy.extrapolated.epsilon)} extrapolated"


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
