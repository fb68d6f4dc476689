"""The table of a frontier, with one row for each setting: in full digits, for a paper, and for a terminal."""

from __future__ import annotations

import math

from privfl.report.frontier.points import Frontier, OverSeeds
from privfl.report.table_files import Rows


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


def _ends(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _three(figure: OverSeeds | None) -> list[str]:
    return ["", "", ""] if figure is None else [_number(figure.value), _number(figure.low), _number(figure.high)]


def _number(value: float) -> str:
    return "inf" if math.isinf(value) else f"{value:.6g}"


def _plus_minus(figure: OverSeeds, percent: bool) -> str:
    scale, digits = (100, 1) if percent else (1, 3)
    return f"{figure.value * scale:.{digits}f} ± {figure.half * scale:.{digits}f}"
