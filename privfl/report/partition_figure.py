"""The figure of a partition: the examples of each class that each client has, for any number of clients."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from privfl.records import PartitionRecord
from privfl.report.drawing import INK, MUTED, PAPER, SERIES, Drawing, to_drawing
from privfl.report.wording import count, percent, plural

Counts = NDArray[np.float64]

COLUMNS: Final = 120
"""The most columns; if there are more clients, clients of similar size share a column."""

SHADES: Final = (0.12, 0.3, 0.5, 0.82, 1.0)
"""Opacities of the shades, from few examples to many; a cell without examples stays empty."""

FEW: Final = 6
"""The most clients that are named and have their counts written into the cells."""


def drawing(partition: PartitionRecord) -> Drawing:
    """Draw a partition: columns are clients, the largest first; rows are classes; bars above are the clients' sizes."""
    counts = np.asarray(partition.counts, dtype=float)
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    ordered = counts[order]
    columns = [block.mean(axis=0) for block in np.array_split(ordered, min(len(ordered), COLUMNS))]
    table = np.stack(columns)
    rows = table.shape[1]
    height = 150 + max(16 * min(rows, 40), 60)
    figure = Figure(figsize=(380 / 72, height / 72))
    sizes, cells = figure.subplots(2, 1, sharex=True, height_ratios=(62, height - 150))
    _sizes(sizes, table)
    edges = _cells(cells, table)
    _name_classes(cells, partition.classes)
    _name_clients(cells, [partition.clients[index] for index in order])
    _legend(figure, edges)
    by_class = f" by {plural(rows, 'class', 'classes')}" if rows > 1 else ""
    alt = (
        f"A table of shades of {plural(len(counts), 'client')}{by_class}. "
        f"The largest client has {count(int(ordered[0].sum()))} examples, the smallest {count(int(ordered[-1].sum()))}."
    )
    column = f"the mean of about {len(ordered) / COLUMNS:.1f} clients of similar size" if len(ordered) > COLUMNS else "a client"
    row = " a row is a class;" if rows > 1 else ""
    caption = f"A column is {column}, the largest at the left;{row} the bars above are the clients' sizes."
    numbers = [
        ["client", *partition.classes],
        *([name, *map(str, row)] for name, row in zip(partition.clients, partition.counts, strict=True)),
    ]
    title = "Classes of each client" if rows > 1 else "Examples of each client"
    return to_drawing(figure, "partition", title, alt, caption, numbers)


def facts(partition: PartitionRecord) -> list[tuple[str, str]]:
    """Return the partition's key figures: the numbers of examples, clients and classes, and the skew."""
    counts = np.asarray(partition.counts, dtype=float)
    sizes = counts.sum(axis=1)
    held = sizes > 0
    shares = counts[held] / sizes[held, None]
    by_class = len(partition.classes) > 1
    return [
        ("examples trained on", count(int(sizes.sum()))),
        ("clients", count(len(counts))),
        *([("classes", count(counts.shape[1]))] if by_class else []),
        (
            "examples a client trains on",
            f"{count(int(sizes.min()))} to {count(int(sizes.max()))}, median {count(round(float(np.median(sizes))))}",
        ),
        *(_skew(counts[held], shares) if by_class else []),
    ]


def _skew(counts: Counts, shares: Counts) -> list[tuple[str, str]]:
    """Return the skew of the labels: the classes of the median client, and the share of its largest class."""
    largest = shares.max(axis=1)
    return [
        ("classes of the median client", f"{np.median((counts > 0).sum(axis=1)):.0f}"),
        ("largest class of the median client", percent(float(np.median(largest)), 0) + " of its examples"),
    ]


def _sizes(axes: Axes, table: Counts) -> None:
    axes.bar(np.arange(len(table)), table.sum(axis=1), width=_width(table), color=MUTED, linewidth=0)
    axes.set_title("examples", loc="left", fontsize=11, color=MUTED, pad=4)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: count(round(size))))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.grid(visible=False, axis="x")


def _cells(axes: Axes, table: Counts) -> list[float]:
    """Draw the cells and return the lower count of each shade; each shade is one path, which keeps the SVG small."""
    edges = _edges(float(table.max()))
    half = _width(table) / 2
    # The mean of several clients may lie between 0 and 1; it still gets the lightest shade.
    shade = np.maximum(np.digitize(table, edges), table > 0)
    for index, opacity in enumerate(SHADES, start=1):
        boxes = [_box(x - half, x + half, y - 0.46, y + 0.46) for x, y in np.argwhere(shade == index)]
        if boxes:
            axes.add_patch(PathPatch(Path.make_compound_path(*boxes), facecolor=SERIES[0], alpha=opacity, linewidth=0))
    axes.set(xlim=(-0.5, len(table) - 0.5), ylim=(table.shape[1] - 0.5, -0.5))
    if len(table) <= FEW:
        _write_counts(axes, table, shade)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return edges


def _write_counts(axes: Axes, table: Counts, shade: NDArray[Any]) -> None:
    for x, y in np.argwhere(table > 0):
        colour = PAPER if SHADES[shade[x, y] - 1] > 0.6 else INK
        axes.text(x, y, count(round(float(table[x, y]))), ha="center", va="center_baseline", fontsize=9.5, color=colour)


def _name_classes(axes: Axes, classes: list[str]) -> None:
    step = -(-len(classes) // 40)
    shown = list(range(0, len(classes), step))
    axes.set_yticks(shown, [_cut(classes[index], 14) for index in shown])


def _name_clients(axes: Axes, clients: list[str]) -> None:
    """Label the columns with the clients' names if there are few, else with their order."""
    few = len(clients) <= FEW
    axes.set_xticks(range(len(clients)) if few else [], [_cut(name, 60 // len(clients)) for name in clients] if few else [])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("" if few else "clients, by size")


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _legend(figure: Figure, edges: list[float]) -> None:
    tops = [*(edge - 1 for edge in edges[1:]), None]
    labels = [
        f"{edge:,.0f}+" if top is None else f"{edge:,.0f}–{top:,.0f}" if top > edge else f"{edge:,.0f}"
        for edge, top in zip(edges, tops, strict=True)
    ]
    patches = [
        Patch(facecolor=SERIES[0], alpha=opacity, linewidth=0, label=label)
        for opacity, label in zip(SHADES, labels, strict=False)
    ]
    figure.legend(
        handles=patches,
        loc="outside lower left",
        ncols=len(patches),
        handlelength=1,
        handletextpad=0.4,
        columnspacing=0.9,
        fontsize=10,
    )


def _edges(largest: float) -> list[float]:
    """Return the lower count of each shade: 1, then round numbers, evenly spaced in the square root of the count."""
    raw = [(index / len(SHADES)) ** 2 * largest for index in range(1, len(SHADES))]
    rounded = [float(f"{edge:.1g}") if edge < 20 else float(f"{edge:.2g}") for edge in raw]
    edges = [1.0]
    for edge in rounded:
        if round(edge) > edges[-1]:
            edges.append(float(round(edge)))
    return edges


def _width(table: Counts) -> float:
    return 0.94 if len(table) <= 40 else 1.0


def _box(left: float, right: float, top: float, bottom: float) -> Path:
    return Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True)
