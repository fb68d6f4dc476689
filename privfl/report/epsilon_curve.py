"""The curve of a run's ε over the rounds, computed before the run, for a terminal and as a figure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from privfl.report.curves import rounds_axis
from privfl.report.drawing import Drawing, empty_figure, line_style, number, style, to_drawing
from privfl.report.wording import epsilon, plural

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 64, 8


def curve_text(spent: Sequence[float]) -> Text:
    """Draw ε over the rounds as bars, for a terminal of 80 columns.

    Args:
        spent: ε after 0, 1, 2, ... rounds.
    """
    rounds = len(spent) - 1
    columns = min(_WIDTH, rounds)
    shown = [spent[round((place + 1) * rounds / columns)] for place in range(columns)]
    top = max(spent) or 1.0
    levels = [round(value / top * 8 * _HEIGHT) for value in shown]
    label = max(len(epsilon(top)), 4)
    lines = []
    for line in range(_HEIGHT - 1, -1, -1):
        name = epsilon(top) if line == _HEIGHT - 1 else ("0.00" if line == 0 else "")
        lines.append(f"{name:>{label}} ┤" + "".join(_EIGHTHS[min(max(level - 8 * line, 0), 8)] for level in levels))
    lines.append(" " * label + " └" + "─" * columns)
    lines.append(f"{' ' * label}  ε after each of {plural(rounds, 'round')}; at the end {epsilon(spent[-1])}")
    return Text("\n".join(lines), no_wrap=True)


def drawing(spent: Sequence[float]) -> Drawing:
    """Draw ε over the rounds as a figure.

    Args:
        spent: ε after 0, 1, 2, ... rounds.
    """
    with style():
        figure, axes = empty_figure(height=250)
        axes.plot(range(len(spent)), spent, **line_style(0))
        axes.set_ylim(bottom=0)
        rounds_axis(axes, "ε so far, the largest over the clients")
        rounds = plural(len(spent) - 1, "round")
        alt = f"The ε that the run will have spent after each of {rounds}, {epsilon(spent[-1])} at the end."
        rows = [["round", "epsilon"], *([str(done), number(value)] for done, value in enumerate(spent))]
        return to_drawing(figure, "spending", "ε over the rounds", alt, rows=rows)
