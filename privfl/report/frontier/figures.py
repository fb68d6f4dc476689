"""The figures of a frontier. Each has the numbers that it shows, so that it can be drawn again elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from privfl.adversaries import Adversary
from privfl.report.drawing import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    Drawing,
    empty_figure,
    label_axes,
    legend_below,
    line_style,
    to_drawing,
)
from privfl.report.frontier.points import Frontier, Measure, OverSeeds, Point
from privfl.report.wording import axis_of, better_direction, byte_size, capitalize

WHO: dict[Adversary, str] = {
    "external": "final model",
    "recipient": "clients' own models",
    "client": "client",
    "server": "server",
    "malicious_server": "malicious server",
}

Get = Callable[[Point], OverSeeds | None]


def drawings(frontier: Frontier) -> list[Drawing]:
    """All figures for which there are numbers."""
    found = [
        _over_epsilon(frontier, "utility", f"{capitalize(frontier.headline.title)} and the promise", _quality, _scale(frontier))
    ]
    measure = frontier.measure
    if "external" in frontier.adversaries:
        found.append(_leakage_over_epsilon(frontier, measure))
        found.append(_pareto(frontier, measure))
    if frontier.adversaries:
        found.append(_by_adversary(frontier, measure))
        found.append(_measured_epsilon(frontier))
    found.append(_cost(frontier))
    return found


def _scale(frontier: Frontier) -> tuple[str, float]:
    percent = frontier.headline.unit == "%"
    return f"test {axis_of(frontier.headline)}", 100 if percent else 1


def _quality(point: Point) -> OverSeeds:
    return point.quality


def _lines(frontier: Frontier) -> list[tuple[str, list[Point]]]:
    """The points that share all settings but the promise, in the order of ε, none last; each with its words."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in frontier.points:
        groups.setdefault(tuple(point.settings.values()), []).append(point)
    return [(points[0].words.partition(", ")[2], sorted(points, key=lambda one: one.target)) for points in groups.values()]


def _places(frontier: Frontier) -> dict[float, int]:
    return {target: place for place, target in enumerate(sorted({point.target for point in frontier.points}))}


def _promise_axis(axes: Axes, places: dict[float, int]) -> None:
    axes.set_xticks(list(places.values()), ["none" if math.isinf(one) else f"{one:g}" for one in places])
    axes.set_xlim(-0.4, len(places) - 0.6)


def _over_epsilon(
    frontier: Frontier,
    name: str,
    title: str,
    get: Get,
    scale: tuple[str, float],
    guessing: float | None = None,
    caption: str = "",
) -> Drawing:
    """A figure against the promise, a line for each other setting."""
    figure, axes = empty_figure(height=270)
    label, factor = scale
    places, rows = _places(frontier), [["setting", "epsilon_target", "value", "low", "high", "seeds"]]
    lines = _lines(frontier)
    for index, (words, points) in enumerate(lines):
        shift = 0.06 * (index - (len(lines) - 1) / 2)
        known = [(point, found) for point in points if (found := get(point)) is not None]
        x = [places[point.target] + shift for point, _ in known]
        for at, (point, found) in zip(x, known, strict=True):
            axes.plot([at, at], [found.low * factor, found.high * factor], color=SERIES[index % 4], linewidth=1.2)
            target = "inf" if math.isinf(point.target) else f"{point.target:g}"
            rows.append([words, target, f"{found.value:.6g}", f"{found.low:.6g}", f"{found.high:.6g}", str(found.seeds)])
        values = [found.value * factor for _, found in known]
        axes.plot(x, values, **line_style(index), marker=MARKERS[index % len(MARKERS)], markersize=6, label=words or None)
    if guessing is not None:
        axes.axhline(guessing * factor, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            "guessing", (1, guessing * factor), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            color=MUTED, fontsize=10, ha="right",
        )  # fmt: skip
    _promise_axis(axes, places)
    label_axes(axes, "promised ε", label)
    if len(lines) > 1:
        legend_below(axes)
    return to_drawing(figure, name, title, _alt(title, rows), caption or _interval_caption(frontier), rows)


def _interval_caption(frontier: Frontier) -> str:
    if frontier.seeds == 1:
        return "One seed a setting: bars are 95 % intervals of the one run, and small differences mean little."
    return f"Means over {frontier.seeds} seeds or more; bars are 95 % intervals over seeds."


def _alt(title: str, rows: Sequence[Sequence[str]]) -> str:
    told = "; ".join(f"{row[0]}{' ' if row[0] else ''}ε {row[1]}: {row[2]}" for row in rows[1:])
    return f"{title}. {told}."


def _leakage_over_epsilon(frontier: Frontier, measure: Measure) -> Drawing:
    return _over_epsilon(
        frontier,
        "leakage",
        "Leakage of the final model and the promise",
        lambda point: measure.at(point, "external"),
        (measure.label, measure.scale),
        measure.guessing,
        f"The best attack on the final model. Down is better. {_interval_caption(frontier)}",
    )


def _pareto(frontier: Frontier, measure: Measure) -> Drawing:
    known = [(point, found) for point in frontier.points if (found := measure.at(point, "external")) is not None]
    figure, axes = empty_figure(height=250 + 18 * len(known))
    label, factor = _scale(frontier)
    rows = [["setting", "leakage", "leakage_low", "leakage_high", "quality", "quality_low", "quality_high"]]
    for index, (point, found) in enumerate(known):
        colour, quality = SERIES[index % 4], point.quality
        x, y = found.value * measure.scale, quality.value * factor
        axes.plot([found.low * measure.scale, found.high * measure.scale], [y, y], color=colour, linewidth=1)
        axes.plot([x, x], [quality.low * factor, quality.high * factor], color=colour, linewidth=1)
        axes.plot(
            [x],
            [y],
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            markersize=7,
            linestyle="none",
            label=point.words,
        )
        ends = [found.value, found.low, found.high, quality.value, quality.low, quality.high]
        rows.append([point.words, *(f"{end:.6g}" for end in ends)])
    best = _front(frontier, [(found.value, point.quality.value) for point, found in known])
    axes.plot(
        [x * measure.scale for x, _ in best],
        [y * factor for _, y in best],
        color=INK,
        linewidth=1,
        linestyle=(0, (4, 3)),
        zorder=0.5,
    )
    axes.axvline(measure.guessing * measure.scale, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    label_axes(axes, measure.label, label)
    legend_below(axes, 1)
    title = f"{capitalize(frontier.headline.title)} and leakage"
    caption = (
        f"{better_direction(frontier.headline)} The dashed line joins the settings that no other setting beats in "
        "both. The dotted line is guessing."
    )
    return to_drawing(figure, "pareto", title, _pairs(title, rows), caption, rows)


def _front(frontier: Frontier, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (leakage, quality) that no other beats in both, by rising leakage."""
    sign = 1 if frontier.headline.higher_is_better else -1
    front: list[tuple[float, float]] = []
    for leak, quality in sorted(points, key=lambda one: (one[0], -sign * one[1])):
        if not front or sign * quality > sign * front[-1][1]:
            front.append((leak, quality))
    return front


def _pairs(title: str, rows: Sequence[Sequence[str]]) -> str:
    return f"{title}. {'; '.join(': '.join((row[0], ', '.join(row[1:]))) for row in rows[1:])}."


def _by_adversary(frontier: Frontier, measure: Measure) -> Drawing:
    """Each protection against each adversary: a row a setting, a marker an adversary."""
    points = frontier.points
    figure, axes = empty_figure(width=360, height=90 + 34 * len(points))
    rows = [["setting", "adversary", "value", "low", "high", "seeds"]]
    for index, who in enumerate(frontier.adversaries):
        first = True
        shift = 0.16 * (index - (len(frontier.adversaries) - 1) / 2)
        for place, point in enumerate(points):
            found = measure.at(point, who)
            if found is None:
                continue
            y, colour = place + shift, SERIES[index % 4]
            axes.plot([found.low * measure.scale, found.high * measure.scale], [y, y], color=colour, linewidth=1.4)
            axes.plot([found.value * measure.scale], [y], color=colour, marker=MARKERS[index], markersize=6.5, linestyle="none",
                      label=WHO[who] if first else None)  # fmt: skip
            first = False
            ends = [f"{end:.6g}" for end in (found.value, found.low, found.high)]
            rows.append([point.words, who, *ends, str(found.seeds)])
    axes.axvline(measure.guessing * measure.scale, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_yticks(range(len(points)), [point.words for point in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.set_xlabel(measure.label)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.2, handletextpad=0.3)
    title = "Leakage to each adversary under each protection"
    caption = "The best attack of each adversary. To the left is better; the dotted line is guessing."
    return to_drawing(figure, "adversaries", title, _pairs(title, rows), f"{caption} {_interval_caption(frontier)}", rows)


def _measured_epsilon(frontier: Frontier) -> Drawing:
    """The lower bound on ε that attacks showed, against the promise."""
    figure, axes = empty_figure(height=270)
    places, rows = _places(frontier), [["setting", "adversary", "epsilon_promised", "epsilon_lower"]]
    for index, who in enumerate(frontier.adversaries):
        known = [(point, leak) for point in frontier.points if (leak := point.leakage.get(who)) is not None]
        shift = 0.08 * (index - (len(frontier.adversaries) - 1) / 2)
        x = [places[point.target] + shift for point, _ in known]
        axes.plot(x, [leak.epsilon.value for _, leak in known], color=SERIES[index % 4], marker=MARKERS[index], markersize=6,
                  linestyle="none", label=WHO[who])  # fmt: skip
        for point, leak in known:
            rows.append([point.words, who, f"{point.promised:.6g}", f"{leak.epsilon.value:.6g}"])
    finite = [(places[target], target) for target in places if not math.isinf(target)]
    axes.plot(
        [at for at, _ in finite],
        [target for _, target in finite],
        color=INK,
        linewidth=1.2,
        marker="_",
        markersize=14,
        label="promised",
    )
    _promise_axis(axes, places)
    axes.set_ylim(bottom=-0.15)
    label_axes(axes, "promised ε", "measured ε (lower bound, 95 %)")
    legend_below(axes)
    title = "Promised and measured ε"
    caption = (
        "A lower bound above the promise would refute it. A bound far below it says that these attacks are weak, not that the "
        "promise is loose."
    )
    return to_drawing(figure, "measured_epsilon", title, _pairs(title, rows), caption, rows)


def _cost(frontier: Frontier) -> Drawing:
    figure, axes = empty_figure(width=360, height=70 + 26 * len(frontier.points))
    rows = [["setting", "seconds", "bytes_up"]]
    for place, point in enumerate(frontier.points):
        axes.barh([place], [point.seconds.value], color=SERIES[0], height=0.55)
        axes.annotate(
            f" {byte_size(point.bytes_up.value)} up", (point.seconds.value, place), va="center", fontsize=10, color=INK
        )
        rows.append([point.words, f"{point.seconds.value:.6g}", f"{point.bytes_up.value:.6g}"])
    axes.set_yticks(range(len(frontier.points)), [point.words for point in frontier.points])
    axes.set_ylim(len(frontier.points) - 0.4, -0.6)
    axes.set_xlim(0, 1.6 * max(point.seconds.value for point in frontier.points))
    axes.set_xlabel("seconds of the run on this machine, without attacks")
    title = "Cost"
    caption = "Seconds of the simulation, and all that clients send over the run."
    return to_drawing(figure, "cost", title, _pairs(title, rows), caption, rows)
