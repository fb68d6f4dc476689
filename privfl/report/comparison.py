"""Several runs side by side: what differs, what came out, and what privacy cost in accuracy."""

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
from privfl.report.blocks import Block, Cell, Column, Tagged, block_of
from privfl.report.cost import Overhead
from privfl.report.curves import one_headline, scaled_by
from privfl.report.drawing import RULE, Drawing, blank, finish, labelled, run_marker
from privfl.report.recorded import Run
from privfl.report.wording import axis_of, better, capital, duration, epsilon, measured, measured_range, scientific

Asked = Sequence[tuple[Block, str, Adversary]]
"""Kinds of finding that are compared: block, question and adversary."""


@dataclass(frozen=True)
class Row:
    """One run in the table; ``link`` is the page of that run, where there is one, ``paired`` with which other run it is."""

    tag: str
    name: str
    link: str | None
    paired: str
    quality: Cell
    promised: Cell
    found: Sequence[Column]
    overhead: Cell


def tagged(runs: Sequence[Run]) -> Tagged:
    """A letter for each run: A, B, ..., Z, A2, ..."""
    return [
        (ascii_uppercase[index % 26] + (str(index // 26 + 1) if index >= 26 else ""), run) for index, run in enumerate(runs)
    ]


def row(run: Run, tag: str, link: str | None, asked: Asked, paired: str = "") -> Row:
    """The figures of one run; ``asked`` are the questions and adversaries that there are columns for."""
    result = run.result
    headline, quality = run.headline, result.evaluation.headline
    promised, overhead = ("no promise", ""), ("off", "updates in the clear")
    if result.privacy is not None:
        promised = (epsilon(result.privacy.epsilon), _terms(result.privacy))
    found = [
        column for block, question, adversary in asked for column in block.columns(run.finding(question, adversary), adversary)
    ]
    if result.hides_updates:
        spent = Overhead.of(run)
        overhead = (f"{spent.extra} bytes", f"{duration(spent.client)} a client, {duration(spent.server)} at the server")
    shown = measured(headline, quality.value) + ("" if headline.title == "accuracy" else f" {headline.title}")
    return Row(tag, run.title, link, paired, (shown, measured_range(headline, quality)), promised, found, overhead)


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
    """The headline against the ε that was promised, and the figures of each kind of finding.

    Nothing is drawn of runs whose tasks have different headlines.
    """
    if one_headline(runs) is None:
        return []
    found = [_against_promise(runs)]
    for block, _, adversary in asked([run for _, run in runs]):
        found += block.drawings(runs, adversary)
    return found


def asked(runs: Sequence[Run]) -> Asked:
    """The questions and adversaries of all findings that any of the runs has; if there are none, the best known."""
    keys = dict.fromkeys((one.question, one.adversary) for run in runs for one in run.findings)
    pairs = [(block_of(question), question, adversary) for question, adversary in keys or [("membership", ADVERSARIES[0])]]
    return [(found, question, adversary) for found, question, adversary in pairs if found is not None]


def _against_promise(runs: Tagged) -> Drawing:
    figure, axes = blank(height=250)
    headline = runs[0][1].headline
    promised = [run.result.privacy.epsilon for _, run in runs if run.result.privacy is not None]
    low, high = _around([value for value in promised if value > 0])
    # What was promised nothing has no place on the axis; it gets one beyond its end.
    beyond = high * (high / low) ** 0.14
    axes.set_xscale("log")
    for index, (tag, run) in enumerate(runs):
        at = beyond if run.result.privacy is None else max(run.result.privacy.epsilon, low)
        run_marker(axes, at, run.result.evaluation.headline, tag, index)
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
        f"{better(headline)} ε at different δ, or for different units, are not comparable. Bars are intervals of the "
        f"{headline.title}."
    )
    if any(run.result.privacy is not None and run.result.privacy.extrapolated is not None for _, run in runs):
        caption += " Where a run stands for a larger federation, its place is at the ε of the noise that it executed."
    alt = f"Test {headline.title} against the promised ε. {alt}."
    return finish(figure, "promise", f"{capital(headline.title)} and the promise", alt, caption)


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
