"""The table of a frontier, a row a setting, as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from privfl.report.frontier.points import Frontier, OverSeeds

Rows = Sequence[Sequence[str]]
"""The header and the rows."""


def numbers(frontier: Frontier) -> Rows:
    """Every figure with both ends of its interval, in full digits; nothing for a figure that there is not."""
    quality = frontier.headline.title.replace(" ", "_")
    header = [*frontier.keys, "epsilon_target", "epsilon_promised", "seeds", *_ends(quality)]
    for who in frontier.adversaries:
        header += [*_ends(f"{who}_tpr_at_1pct_fpr"), *_ends(f"{who}_auc"), *_ends(f"{who}_epsilon_lower"), f"{who}_best"]
    header += [*_ends("bytes_up"), *_ends("seconds")]
    rows = [header]
    for point in frontier.points:
        row = [*point.settings.values(), _number(point.target), _number(point.promised), str(len(point.seeds))]
        row += _three(point.quality)
        for who in frontier.adversaries:
            leak = point.leakage.get(who)
            if leak is None:
                row += [""] * 10
            else:
                row += [*_three(leak.tpr), *_three(leak.auc), *_three(leak.epsilon), leak.best[0]]
        rows.append(row + _three(point.bytes_up) + _three(point.seconds))
    return rows


def shown(frontier: Frontier) -> Rows:
    """The table for a paper: each figure with half the width of its interval; shares in per cent."""
    measure = frontier.measure
    header = ["setting", "promised ε", f"test {frontier.headline.title}"]
    header += [f"{who}: {measure.short}" for who in frontier.adversaries]
    header += [f"{who}: measured ε" for who in frontier.adversaries]
    rows = [header]
    percent = frontier.headline.unit == "%"
    for point in frontier.points:
        row = [point.words, f"{point.promised:.2f}" if point.promises else "∞", _plus_minus(point.quality, percent)]
        found = [measure.at(point, who) for who in frontier.adversaries]
        row += ["–" if one is None else _plus_minus(one, measure.percent) for one in found]
        leaks = [point.leakage.get(who) for who in frontier.adversaries]
        row += ["–" if leak is None else f"≥ {leak.epsilon.value:.2f}" for leak in leaks]
        rows.append(row)
    return rows


def brief(frontier: Frontier) -> Rows:
    """The columns of :func:`shown` that a terminal has room for."""
    return [[row[0], *row[2 : 3 + len(frontier.adversaries)]] for row in shown(frontier)]


def as_csv(rows: Rows) -> str:
    """Comma-separated, a line a row."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def as_markdown(rows: Rows) -> str:
    """A Markdown table."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def as_latex(rows: Rows) -> str:
    """A LaTeX tabular with the rules of the package booktabs."""
    header, *body = rows
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(header)}}}",
        r"\toprule",
        _tex(header),
        r"\midrule",
        *map(_tex, body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


_TEX = {"\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
_TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {"ε": r"$\varepsilon$", "∞": r"$\infty$", "±": r"$\pm$", "≥": r"$\geq$", "–": "--", "\u202f": r"\,", "\u00a0": "~"}


def _tex(cells: Sequence[str]) -> str:
    return " & ".join("".join(_TEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"


def _ends(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _three(figure: OverSeeds | None) -> list[str]:
    return ["", "", ""] if figure is None else [_number(figure.value), _number(figure.low), _number(figure.high)]


def _number(value: float) -> str:
    return "inf" if math.isinf(value) else f"{value:.6g}"


def _plus_minus(figure: OverSeeds, percent: bool) -> str:
    scale, digits = (100, 1) if percent else (1, 3)
    return f"{figure.value * scale:.{digits}f} ± {figure.half * scale:.{digits}f}"
