"""Figures as SVG whose colours follow a light or dark page.

Matplotlib draws with placeholder colours, one for each name of :data:`COLOURS`. In the SVG they become CSS variables,
which the style sheet of the page sets. A figure in a file of its own sets them itself. Text stays text, not outlines.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba, to_rgba_array
from matplotlib.figure import Figure

from privfl.report.table_files import as_csv

COLOURS: Final = {
    "paper": ("#ffffff", "#14171b"),
    "ink": ("#1a1e24", "#e9ebee"),
    "muted": ("#59616b", "#a3acb7"),
    "rule": ("#d5d9de", "#373e47"),
    "series-1": ("#0b5c96", "#79bdf0"),
    "series-2": ("#b0400e", "#f5a073"),
    "series-3": ("#1f7350", "#78cfa6"),
    "series-4": ("#75429b", "#c7a5ec"),
}
"""Each colour's value on a light and on a dark page. All but ``rule`` have a contrast of at least 4.5 on ``paper``."""

_PLACEHOLDERS: Final = {name: f"#0001{index:02x}" for index, name in enumerate(COLOURS, start=16)}

PAPER, INK, MUTED, RULE = (_PLACEHOLDERS[name] for name in ("paper", "ink", "muted", "rule"))
SERIES: Final = tuple(_PLACEHOLDERS[f"series-{index}"] for index in (1, 2, 3, 4))
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 1.8)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<")

WIDTH, HEIGHT = 320, 228
"""Width and height of a figure in pixels; it fits the screen of a phone without shrinking its text."""

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "privfl",
    "text.parse_math": False,
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "lines.dash_capstyle": "butt",
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "legend.handlelength": 2.1,
    "legend.borderaxespad": 0.2,
    "hatch.color": RULE,
    "hatch.linewidth": 0.8,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


@dataclass(frozen=True)
class Drawing:
    """A finished figure as SVG, with its title and its alternative text.

    Args:
        name: the name of its file, and the prefix of the ids in the SVG.
        title: a few words above the figure.
        alt: one or two sentences that describe the figure for readers who cannot see it.
        svg: the SVG element, with colours as CSS variables.
        caption: sentences that explain how to read the figure.
        rows: the numbers that the figure shows, header first; empty if they are not given.
        figure: the figure of matplotlib, from which files for papers are made.
    """

    name: str
    title: str
    alt: str
    svg: str
    caption: str = ""
    rows: Sequence[Sequence[str]] = ()
    figure: Figure | None = field(default=None, compare=False, repr=False)

    def standalone_svg(self) -> str:
        """Return the figure as the text of an SVG file with the colours of a light page, which any program can draw."""
        style = (
            "<style>text{font-family:system-ui,'Segoe UI','Helvetica Neue',Arial,sans-serif}"
            "*{stroke-linejoin:round;stroke-linecap:butt}</style>"
            f'<rect width="100%" height="100%" style="fill: {COLOURS["paper"][0]}"/>'
        )
        names = ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        svg = re.sub(r'<g class="points".*?</g>', "", self.svg, flags=re.DOTALL)
        svg = re.sub(r"var\(--([\w-]+)\)", lambda found: COLOURS[found[1]][0], svg)
        svg = svg.replace("<svg", f"<svg{names}", 1).replace("</desc>", f"</desc>{style}", 1)
        return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'

    def files(self) -> dict[str, bytes]:
        """Return suffix and content of the files that every page has beside it: SVG, and CSV of the figure's numbers."""
        files = {"svg": self.standalone_svg().encode()}
        if self.rows:
            files["csv"] = as_csv(self.rows).encode()
        return files

    def for_papers(self) -> dict[str, bytes]:
        """Return suffix and content of its files for a paper: :meth:`files`, PDF, and PNG at 300 dpi, in light colours."""
        files = self.files()
        if self.figure is not None:
            _colour(self.figure)
            with style():
                for kind in ("pdf", "png"):
                    buffer = io.BytesIO()
                    metadata = {"CreationDate": None} if kind == "pdf" else None
                    self.figure.savefig(buffer, format=kind, dpi=300, facecolor="white", metadata=metadata)
                    files[kind] = buffer.getvalue()
        return files


class Mark(NamedTuple):
    """A point of a figure whose value is shown under the pointer: its place in the data, and the words."""

    axes: Axes
    x: float
    y: float
    text: str


def style() -> AbstractContextManager[None]:
    """Return a context with matplotlib's settings for figures; the caller's settings are restored at its end."""
    return mpl.rc_context(_STYLE)


def empty_figure(width: int = WIDTH, height: int = HEIGHT) -> tuple[Figure, Axes]:
    """Return an empty figure with one pair of axes, ``width`` by ``height`` pixels; call it within :func:`style`."""
    figure = Figure(figsize=(width / 72, height / 72))
    return figure, figure.add_subplot()


def to_drawing(
    figure: Figure,
    name: str,
    title: str,
    alt: str,
    caption: str = "",
    rows: Sequence[Sequence[str]] = (),
    marks: Sequence[Mark] = (),
) -> Drawing:
    """Render a figure of matplotlib as a :class:`Drawing`; the values of ``marks`` are shown under the pointer."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # A class name may hold letters that matplotlib's font lacks; the reader's browser draws them in its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = _themed(buffer.getvalue(), name, title, alt).removesuffix("</svg>") + _points(figure, marks) + "</svg>"
    return Drawing(name, title, alt, svg, caption, rows, figure)


def marks_of(axes: Axes, points: Iterable[tuple[float, float]], words: Callable[[float, float], str]) -> Sequence[Mark]:
    """Return a mark for each point of one line; if there are very many, only for some of them.

    Args:
        axes: the axes that the line is on.
        points: x and y of each point, as the axes have them.
        words: the words for x and y.
    """
    return thinned([Mark(axes, x, y, words(x, y)) for x, y in points])


def number(value: float) -> str:
    """Return a number as the file of a figure's numbers has it, with six significant digits."""
    return f"{value:.6g}"


def thinned(marks: Sequence[Mark]) -> Sequence[Mark]:
    """Return at most :data:`MOST_MARKS` of the marks of one line, evenly spaced, with the last one."""
    step = -(-len(marks) // MOST_MARKS)
    return marks[::-1][::step][::-1] if step > 1 else marks


MOST_MARKS: Final = 60
"""The most points of one line whose values are shown; more would make the page large, and could not be pointed at."""


def _points(figure: Figure, marks: Sequence[Mark]) -> str:
    """Return an invisible circle for each mark, with the mark's words as a tooltip; it needs no script."""
    if not marks:
        return ""
    height = figure.get_figheight() * 72
    circles = []
    for mark in marks:
        x, y = mark.axes.transData.transform((mark.x, mark.y)) * 72 / figure.dpi
        circles.append(f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="6"><title>{escape(mark.text)}</title></circle>')
    return f'<g class="points" aria-hidden="true" fill="none" pointer-events="all">{"".join(circles)}</g>'


def legend_below(axes: Axes, columns: int = 2) -> None:
    """Place the legend below the axes, so that it covers no data."""
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=columns, columnspacing=1.4, handletextpad=0.5)


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Label both axes: x below; y above its axis and horizontal, so that it is easy to read."""
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", fontsize=11, color=MUTED, pad=7)


def line_style(index: int) -> dict[str, Any]:
    """Return colour and dashes of the ``index``-th line: sixteen lines differ, and four differ even without colour."""
    return {"color": SERIES[index % 4], "linestyle": DASHES[(index + index // 4) % 4]}


def marker(index: int) -> str:
    """Return the marker of the ``index``-th run: no two of 32 runs share both marker and colour."""
    return MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]


def _colour(figure: Figure) -> None:
    """Give every part of a figure the light page's colour in place of its placeholder."""
    real = {to_rgba(placeholder)[:3]: to_rgba(COLOURS[name][0])[:3] for name, placeholder in _PLACEHOLDERS.items()}
    for part in figure.findobj(match=Artist):
        for name in _COLOURED:
            get, give = getattr(part, f"get_{name}", None), getattr(part, f"set_{name}", None)
            if get is None or give is None:
                continue
            found = get()
            if isinstance(found, str) and found in ("none", "auto"):
                continue
            rgba_N4 = to_rgba_array(found)
            if len(rgba_N4):
                shown = [(*real.get(tuple(rgba[:3]), tuple(rgba[:3])), rgba[3]) for rgba in rgba_N4]
                give(shown if isinstance(part, Collection) else shown[0])


_COLOURED: Final = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
"""The properties of Matplotlib's parts that hold colours."""


def _themed(svg: str, name: str, title: str, alt: str) -> str:
    """Return the SVG without metadata and fonts, with prefixed ids, and with CSS variables for the placeholder colours."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for colour, placeholder in _PLACEHOLDERS.items():
        svg = svg.replace(f": {placeholder}", f": var(--{colour})")
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    opening = (
        f'<svg viewBox="{box[1]}" width="{box[1].split()[2]}" height="{box[1].split()[3]}" role="img" '
        f'aria-labelledby="{name}-title {name}-alt"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-alt">{escape(alt)}</desc>'
    )
    return opening + svg[svg.index(">") + 1 :]
