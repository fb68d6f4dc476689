"""Late clients on a page: the metric against simulated seconds, and what became of late work, in words."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from privfl.federation.clocks import Clock
from privfl.federation.paces import Pace
from privfl.learning.tasks import Figure
from privfl.report.curves import Settings, format_metric_axis
from privfl.report.drawing import (
    Drawing,
    Mark,
    empty_figure,
    label_axes,
    legend_below,
    line_style,
    marks_of,
    number,
    to_drawing,
)
from privfl.report.run_records import RunRecords
from privfl.report.wording import axis_of, capitalize, duration, measured, plural
from privfl.tables import narrow

_Points = Sequence[tuple[float, float]]


def words(run: RunRecords) -> str:
    """Say how rounds follow each other and how long clients take, after words about cohorts; empty if there is neither."""
    said = (narrow(run.config.pace, Pace).words(), narrow(run.config.clock, Clock).words())
    return "".join(f"; {one}" for one in said if one)


def notes(run: RunRecords) -> list[str]:
    """Return sentences about late work and simulated time, each only if there is some."""
    found = []
    late, cut = (sum(len(getattr(record, name)) for record in run.rounds) for name in ("late", "cut"))
    stale = [staleness for record in run.rounds for staleness in record.staleness.values()]
    if late:
        found.append(f"{plural(late, 'update')} came too late and were dropped, over all rounds.")
    if cut:
        found.append(f"{plural(cut, 'training')} did only a part of the work.")
    if stale:
        updates = sum(len(record.cohort) for record in run.rounds)
        mean = sum(stale) / updates
        found.append(
            f"{len(stale)} of {plural(updates, 'update')} were computed from an older global model, {mean:.2g} rounds old on "
            f"average over all updates and {max(stale)} at most."
        )
    if run.rounds and (ends := run.rounds[-1].ends) is not None:
        found.append(f"The run took {duration(ends)} of simulated time.")
    return found


def drawings(run: RunRecords) -> list[Drawing]:
    """Draw the headline metric of a run against simulated seconds; nothing without a clock."""
    return settings_drawings([("test split", [run])], run.headline_metric)


def settings_drawings(settings: Settings, headline: Figure | None) -> list[Drawing]:
    """Draw the headline metric of several settings against simulated seconds, the first seed of each.

    The result is empty if some setting has no clock, or the settings have several metrics.
    """
    lines = [(label, _points(runs[0])) for label, runs in settings]
    if headline is None or not lines or not all(points for _, points in lines):
        return []
    figure, axes = empty_figure(height=230 + 17 * len(lines))
    rows, marks = [["of", "simulated_seconds", "value"]], list[Mark]()
    for index, (label, points) in enumerate(lines):
        axes.plot(*zip(*points, strict=True), label=label, **line_style(index), marker="o", markersize=3)
        marks += _marks(axes, points, label, headline)
        rows += [[label, number(seconds), number(value)] for seconds, value in points]
    label_axes(axes, "simulated seconds", axis_of(headline))
    format_metric_axis(axes, headline)
    axes.set_xlim(left=0)
    legend_below(axes, columns=1)
    ends = "; ".join(f"{label}: {measured(headline, points[-1][1])} after {duration(points[-1][0])}" for label, points in lines)
    alt = f"Test {headline.title} against simulated seconds. At the end, {ends}."
    caption = "Clients take as long as the run's clock says; aggregation takes no time." + (
        " The first seed of each setting." if len(lines) > 1 else ""
    )
    title = f"{capitalize(headline.title)} against simulated seconds"
    return [to_drawing(figure, "simulated_seconds", title, alt, caption, rows, marks)]


def _points(run: RunRecords) -> _Points:
    """The headline metric after each evaluated round, with the simulated seconds until then; empty without a clock."""
    ends = {record.round + 1: record.ends for record in run.rounds}
    found = [(ends.get(done), evaluation.headline.value) for done, evaluation in run.evaluations]
    return [(seconds, value) for seconds, value in found if seconds is not None]


def _marks(axes: Axes, points: _Points, name: str, headline: Figure) -> Sequence[Mark]:
    return marks_of(axes, points, lambda x, y: f"{name}: {measured(headline, y)} (after {duration(x)})")
