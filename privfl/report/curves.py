"""Figures over the rounds of a run: metric, loss, ε, clipping, bytes and seconds; metric and ε also of several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from privfl.learning.tasks import Figure
from privfl.records import Interval, Spread
from privfl.report.drawing import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    Drawing,
    Mark,
    empty_figure,
    label_axes,
    legend_below,
    line_style,
    marker,
    marks_of,
    number,
    to_drawing,
)
from privfl.report.run_records import RunRecords
from privfl.report.wording import axis_of, byte_size, capitalize, count, duration, epsilon, measured, measured_range, percent

PERCENT: Final = FuncFormatter(lambda share, _: f"{share * 100:g}")


def run_drawings(run: RunRecords) -> list[Drawing]:
    """Draw the figures over rounds that the records of a run provide, apart from those of its cost."""
    drawings = [_quality(run), _loss(run)]
    if run.result.privacy is not None:
        drawings.append(_epsilon(run))
    if any(record.clipped_share is not None for record in run.rounds):
        drawings.append(_clipped(run))
    return drawings


def cost_drawings(run: RunRecords) -> list[Drawing]:
    """Draw the bytes and the seconds of each round; none if the run ended before its first round."""
    return [_bytes(run), _seconds(run)] if run.rounds else []


Settings = Sequence[tuple[str, Sequence[RunRecords]]]
"""The words of each setting, with its runs, one for each seed."""


def comparison_drawings(settings: Settings, headline: Figure | None) -> list[Drawing]:
    """Draw several settings: the headline metric if all share it, else None; and ε if any promises one."""
    drawings = [] if headline is None else [_qualities(settings, headline)]
    if any(runs[0].result.privacy is not None for _, runs in settings):
        drawings.append(_epsilons(settings))
    return drawings


def format_metric_axis(axes: Axes, shown: Figure) -> None:
    """Label the vertical axis in percent if the metric is a share."""
    if shown.unit == "%":
        axes.yaxis.set_major_formatter(PERCENT)


def _qualities(settings: Settings, headline: Figure) -> Drawing:
    figure, axes = empty_figure(height=230 + 17 * len(settings))
    rows, marks = [["setting", "seed", "round", "value", "low", "high"]], list[Mark]()
    for index, (label, runs) in enumerate(settings):
        each = [dict(run.evaluations) for run in runs]
        x = [done for done in each[0] if all(done in other for other in each)]
        values = [[found[done].headline.value for found in each] for done in x]
        means = [sum(found) / len(found) for found in values]
        axes.plot(x, means, label=label, **line_style(index), **_dots(x, index))
        if len(runs) > 1:
            low, high = [min(found) for found in values], [max(found) for found in values]
            axes.fill_between(x, low, high, color=line_style(index)["color"], alpha=0.16, linewidth=0)
        marks += _told(axes, x, means, label, lambda value: measured(headline, value))
        for run, found in zip(runs, each, strict=True):
            rows += [[label, str(run.config.seed), str(done), *_ends(one.headline)] for done, one in found.items()]
    rounds_axis(axes, f"test {axis_of(headline)}")
    format_metric_axis(axes, headline)
    legend_below(axes, columns=1)
    ends = "; ".join(f"{label}: {measured(headline, runs[0].result.evaluation.headline.value)}" for label, runs in settings)
    title = f"{capitalize(headline.title)} over rounds"
    alt = f"Test {headline.title} of each setting over its rounds. At the end of the first seed, {ends}."
    several = any(len(runs) > 1 for _, runs in settings)
    caption = "Lines are means over seeds; the shade reaches from the lowest seed to the highest." if several else ""
    return to_drawing(figure, "accuracies", title, alt, caption, rows, marks)


def _epsilons(settings: Settings) -> Drawing:
    figure, axes = empty_figure(height=230 + 17 * len(settings))
    ends = []
    rows, marks = [["setting", "round", "epsilon"]], list[Mark]()
    for index, (label, (run, *_)) in enumerate(settings):
        if run.result.privacy is not None:
            done, spent = _spent(run)
            axes.plot(done, spent, label=label, **line_style(index))
            marks += _told(axes, done, spent, label, epsilon)
            rows += [[label, str(each), number(value)] for each, value in zip(done, spent, strict=True)]
            ends.append(f"{label}: {epsilon(run.result.privacy.epsilon)}")
    rounds_axis(axes, "ε so far, in the first seed")
    axes.set_ylim(bottom=0)
    legend_below(axes, columns=1)
    alt = f"The ε that each setting had spent after each round, in its first seed. At the end, {'; '.join(ends)}."
    return to_drawing(figure, "epsilons", "ε over rounds", alt, rows=rows, marks=marks)


def _quality(run: RunRecords) -> Drawing:
    figure, axes = empty_figure(height=262)
    headline = run.headline_metric
    points = run.evaluations
    x = [done for done, _ in points]
    spread = [(done, evaluation.clients) for done, evaluation in points if evaluation.clients is not None]
    if spread:
        axes.fill_between(
            [done for done, _ in spread],
            [clients.p10 for _, clients in spread],
            [clients.p90 for _, clients in spread],
            color=SERIES[1], alpha=0.16, linewidth=0, label="clients, 10th to 90th percentile",
        )  # fmt: skip
        axes.plot([d for d, _ in spread], [c.median for _, c in spread], **line_style(1), label="median client")
    own = [(done, evaluation.personal.median) for done, evaluation in points if evaluation.personal is not None]
    if own:
        axes.plot([done for done, _ in own], [median for _, median in own], **line_style(2), label="median client, own model")
    axes.fill_between(
        x, [e.headline.low for _, e in points], [e.headline.high for _, e in points], color=SERIES[0], alpha=0.3, linewidth=0
    )
    axes.plot(x, [e.headline.value for _, e in points], **line_style(0), **_dots(points), label="test split, with interval")
    rounds_axis(axes, axis_of(headline))
    format_metric_axis(axes, headline)
    if headline.unit == "%":
        axes.set_ylim(top=min(1.0, axes.get_ylim()[1]))
    legend_below(axes, columns=1)
    final = run.result.evaluation
    range_ = measured_range(headline, final.headline)
    alt = f"Test {headline.title} over rounds, ending at {measured(headline, final.headline.value)} (interval {range_})."
    if final.clients is not None:
        low, high = (measured(headline, value) for value in (final.clients.p10, final.clients.p90))
        alt += f" Over clients it ends between {low} (10th percentile) and {high}."
    if final.personal is not None:
        alt += f" The median client's own model ends at {measured(headline, final.personal.median)} on its own hold-out."
    rows = [["of", "round", "value", "low", "high"], *(["test split", str(done), *_ends(e.headline)] for done, e in points)]
    rows += [["median client, 10th to 90th percentile", str(done), *_spread(clients)] for done, clients in spread]
    rows += [["own models", str(done), *_spread(e.personal)] for done, e in points if e.personal is not None]
    marks = _told(axes, x, [e.headline.value for _, e in points], "test split", lambda value: measured(headline, value))
    return to_drawing(figure, "accuracy", capitalize(headline.title), alt, rows=rows, marks=marks)


def _loss(run: RunRecords) -> Drawing:
    figure, axes = empty_figure(height=262)
    points = run.evaluations
    x = [done for done, _ in points]
    trained = [(record.round + 1, record.train_loss) for record in run.rounds if record.train_loss is not None]
    axes.plot([done for done, _ in trained], [loss for _, loss in trained], **line_style(1), label="cohort, in training")
    axes.fill_between(
        x, [e.loss.low for _, e in points], [e.loss.high for _, e in points], color=SERIES[0], alpha=0.3, linewidth=0
    )
    axes.plot(x, [e.loss.value for _, e in points], **line_style(0), **_dots(points), label="test split, with interval")
    loss = run.task.figures["loss"]
    rounds_axis(axes, axis_of(loss))
    legend_below(axes, columns=1)
    final = run.result.evaluation.loss.value
    alt = f"Mean {loss.title} on the test split over rounds, ending at {measured(loss, final)}."
    rows = [["of", "round", "value", "low", "high"], *(["test split", str(done), *_ends(e.loss)] for done, e in points)]
    rows += [["cohort, in training", str(done), number(value), "", ""] for done, value in trained]
    marks = _told(axes, x, [e.loss.value for _, e in points], "test split", lambda value: measured(loss, value))
    return to_drawing(figure, "loss", "Loss", alt, rows=rows, marks=marks)


def _epsilon(run: RunRecords) -> Drawing:
    privacy = run.result.privacy
    assert privacy is not None
    figure, axes = empty_figure()
    done, spent = _spent(run)
    axes.plot(done, spent, **line_style(0))
    alt = f"The largest ε over the clients after each round, ending at {epsilon(privacy.epsilon)}"
    if privacy.budget is not None:
        axes.axhline(privacy.budget, color=INK, linestyle=(0, (5, 3)), linewidth=1)
        axes.annotate(
            f"budget {epsilon(privacy.budget)}", (0, privacy.budget), (2, -4),
            xycoords=("axes fraction", "data"), textcoords="offset points", va="top", color=INK, fontsize=10.5,
        )  # fmt: skip
        alt += f", against a budget of {epsilon(privacy.budget)}"
    axes.set_ylim(0, max(privacy.budget or 0, privacy.epsilon) * 1.08 or 1)
    rounds_axis(axes, "ε so far, the largest over the clients")
    rows = [["round", "epsilon"], *([str(each), number(value)] for each, value in zip(done, spent, strict=True))]
    return to_drawing(figure, "epsilon", "Privacy spent", alt + ".", rows=rows, marks=_told(axes, done, spent, "ε", epsilon))


def _clipped(run: RunRecords) -> Drawing:
    figure, axes = empty_figure()
    points = [(record.round + 1, record.clipped_share) for record in run.rounds if record.clipped_share is not None]
    axes.plot([done for done, _ in points], [share for _, share in points], **line_style(0))
    vectors = "updates" if run.result.privacy is not None and run.result.privacy.unit == "client" else "gradients"
    rounds_axis(axes, f"clipped {vectors}, %")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_ylim(0, 1.04)
    each = vectors if vectors == "updates" else "per-example gradients"
    alt = f"The share of clipped {each} in each round; in the last, {percent(points[-1][1])}."
    rows = [["round", "clipped_share"], *([str(done), number(share)] for done, share in points)]
    marks = _told(axes, [done for done, _ in points], [share for _, share in points], "clipped", percent)
    return to_drawing(figure, "clipped", "Clipping", alt, rows=rows, marks=marks)


def _bytes(run: RunRecords) -> Drawing:
    figure, axes = empty_figure()
    x = [record.round + 1 for record in run.rounds]
    up, down = ([size / 1e6 for size in sizes] for sizes in zip(*((r.bytes_up, r.bytes_down) for r in run.rounds), strict=True))
    axes.plot(x, down, drawstyle="steps-mid", **line_style(1), label="down")
    axes.plot(x, up, drawstyle="steps-mid", **line_style(0), label="up")
    rounds_axis(axes, "MB a round; down without the model")
    axes.set_ylim(0, max(*up, *down) * 1.3 or 1)
    axes.legend(loc="upper left", reverse=True, ncols=2, columnspacing=1, handlelength=1.7)
    alt = (
        f"Megabytes sent in each round: at most {byte_size(max(up) * 1e6)} by all its clients, and at most "
        f"{byte_size(max(down) * 1e6)} to them beside the model."
    )
    rows = [["round", "bytes_up", "bytes_down"], *([str(r.round + 1), str(r.bytes_up), str(r.bytes_down)] for r in run.rounds)]
    marks = [*_told(axes, x, up, "up", _megabytes), *_told(axes, x, down, "down", _megabytes)]
    return to_drawing(figure, "bytes", "Bytes", alt, rows=rows, marks=marks)


def _seconds(run: RunRecords) -> Drawing:
    figure, axes = empty_figure()
    cohorts = {record.round: len(record.cohort) for record in run.rounds}
    x = [timing.round + 1 for timing in run.timings]
    parts = {
        "training": [timing.train for timing in run.timings],
        "aggregation": [t.aggregate_client * cohorts.get(t.round, 0) + t.aggregate_server for t in run.timings],
        "evaluation": [timing.evaluate for timing in run.timings],
    }
    for index, (label, seconds) in enumerate(parts.items()):
        sometimes = {"linestyle": "none", "marker": MARKERS[index], "markersize": 4} if 0 in seconds and any(seconds) else {}
        shown = [(done, taken) for done, taken in zip(x, seconds, strict=True) if taken > 0 or not sometimes]
        axes.plot(*zip(*shown, strict=True), drawstyle="steps-mid", label=label, **{**line_style(index), **sometimes})
    rounds_axis(axes, "seconds a round, in this simulation")
    axes.set_ylim(0, max(max(seconds, default=0) for seconds in parts.values()) * 1.3 or 1)
    axes.legend(loc="upper left", ncols=3, columnspacing=1, handlelength=1.7)
    means = "; ".join(f"{label} {duration(sum(seconds) / max(len(seconds), 1))}" for label, seconds in parts.items())
    alt = f"Seconds that each round took. On average: {means}."
    rows = [["round", *(f"{label}_seconds" for label in parts)]]
    rows += [[str(done), *map(number, taken)] for done, *taken in zip(x, *parts.values(), strict=True)]
    marks = [mark for label, seconds in parts.items() for mark in _told(axes, x, seconds, label, duration)]
    return to_drawing(figure, "seconds", "Seconds", alt, rows=rows, marks=marks)


def _megabytes(size: float) -> str:
    return byte_size(size * 1e6)


def _told(axes: Axes, x: Sequence[int], y: Sequence[float], name: str, words: Callable[[float], str]) -> Sequence[Mark]:
    """Return marks that tell each value with its round."""
    pairs = zip(x, y, strict=True)
    return marks_of(axes, pairs, lambda done, value: f"{name}: {words(value)} (round {count(round(done))})")


def _ends(found: Interval) -> list[str]:
    return [number(found.value), number(found.low), number(found.high)]


def _spread(clients: Spread) -> list[str]:
    return [number(clients.median), number(clients.p10), number(clients.p90)]


def _spent(run: RunRecords) -> tuple[list[int], list[float]]:
    spent = [(record.round + 1, record.epsilon) for record in run.rounds if record.epsilon is not None]
    return [0, *(done for done, _ in spent)], [0.0, *(value for _, value in spent)]


def _dots(points: Sequence[object], index: int = 0) -> dict[str, Any]:
    """Return the style of markers for single measurements, if they are few enough to be told apart."""
    return {"marker": marker(index), "markersize": 4} if len(points) <= 12 else {}


def rounds_axis(axes: Axes, y: str) -> None:
    """Set the horizontal axis to rounds, and label the vertical axis."""
    label_axes(axes, "round", y)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda done, _: count(round(done))))
    axes.grid(visible=False, axis="x")
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
