"""The table of papers: claims, ours with intervals, ε by three accountants, status and minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from privfl.papers import Figure
from privfl.records import PaperCell
from privfl.report.papers.verdict import Verdict
from privfl.report.table_files import Rows
from privfl.report.wording import epsilon

HEADER = ("row", "status", "claim", "ours", "ε, paper", "ε, RDP", "ε, PLD", "min", "paper", "figure")

ABSENT = "–"
"""A figure that there is not."""

_SHARES = ("train", "clients.", "personal.", "client:", "clusters.", "group:", "groups.", "local.")
_PERCENT = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")


def shown(verdicts: Sequence[Verdict], *, between: str = " · ") -> Rows:
    """The table as readers see it; the cells of a row stand beside each other with ``between``."""
    return [HEADER, *(_row(verdict, between) for verdict in verdicts)]


def brief(verdicts: Sequence[Verdict]) -> Rows:
    """The columns that a terminal has room for, a line for each cell; columns without a figure are left out."""
    rows = [[row[0], *row[2:7], row[1]] for row in shown(verdicts, between="\n")]
    kept = [place for place in range(len(rows[0])) if any(row[place] != ABSENT for row in rows[1:])]
    # Cells stand below each other, and whatever is one for the whole row beside the first.
    lines = [zip_longest(*(row[place].split("\n") for place in kept), fillvalue="") for row in rows]
    return [line for of_row in lines for line in of_row]


def numbers(verdicts: Sequence[Verdict]) -> Rows:
    """Every cell as a line, in full digits."""
    header = ["row", "citation", "where", "topic", "cell", "metric", "claim", "mean", "low", "high", "seeds"]
    header += ["epsilon_claimed", "epsilon_papers", "epsilon_rdp", "epsilon_pld", "delta", "unit"]
    header += ["status", "holds", "provenance", "minutes", "why"]
    rows = [header]
    for one in verdicts:
        paper, result = one.row.paper, one.result
        for place, figure in enumerate(paper.cells):
            cell = None if result is None else result.cells[place]
            prices = {} if result is None else result.prices
            row = [one.row.name, paper.citation, paper.where, paper.topic, figure.name, figure.metric, _plain(figure.claim)]
            row += ["", "", ""] if cell is None else [_plain(cell.mean), _plain(cell.low), _plain(cell.high)]
            row += ["" if result is None else " ".join(map(str, result.seeds)), _plain(paper.claim_epsilon)]
            row += [_plain(prices.get(name)) for name in ("papers", "rdp", "pld")]
            row += ["", ""] if result is None else [_plain(result.delta), result.unit or ""]
            row += [one.status, "" if one.holds is None else str(one.holds).lower(), paper.provenance]
            rows.append([*row, "" if result is None else _plain(result.minutes), one.why])
    return rows


def status_words(verdict: Verdict) -> str:
    """The status; a method check says whether its claim holds."""
    if verdict.status != "method check" or verdict.holds is None:
        return verdict.status
    return f"method check: {'holds' if verdict.holds else 'does not hold'}"


def _row(verdict: Verdict, between: str) -> list[str]:
    paper, result = verdict.row.paper, verdict.result
    cells: Sequence[PaperCell | None] = [None] * len(paper.cells) if result is None else result.cells
    pairs = list(zip(paper.cells, cells, strict=True))
    prices = {} if result is None else result.prices
    return [
        verdict.row.name,
        status_words(verdict),
        _joined([_claim(figure) for figure in paper.cells], between),
        _joined([_ours(figure, cell) for figure, cell in pairs], between),
        ABSENT if paper.claim_epsilon is None else epsilon(paper.claim_epsilon),
        epsilon(prices["rdp"]) if "rdp" in prices else ABSENT,
        epsilon(prices["pld"]) if "pld" in prices else ABSENT,
        _minutes(paper.minutes if result is None else result.minutes),
        paper.citation,
        paper.where,
    ]


def _joined(words: Sequence[str], between: str) -> str:
    return words[0] if len(set(words)) == 1 else between.join(words)


def _claim(figure: Figure) -> str:
    before = f"{figure.name} " if figure.name else ""
    if figure.ordered:
        orders = [f"above {name}" for name in figure.above] + [f"below {name}" for name in figure.below]
        margin = _format(figure)(abs(figure.by))
        by = f" by {margin}" if figure.by > 0 else f", or short of it by less than {margin}" if figure.by else ""
        value = "" if figure.claim is None else f" ({_format(figure)(figure.claim)})"
        return f"{before}{', '.join(orders)}{by}{value}"
    assert figure.claim is not None
    margin = f"± {_format(figure)(figure.tolerance)}" if figure.tolerance is not None else f"×÷ {figure.factor:g}"
    return f"{before}{_format(figure)(figure.claim)} {margin}"


def _ours(figure: Figure, cell: PaperCell | None) -> str:
    if cell is None:
        return ABSENT
    number = _format(figure)
    if cell.mean is None:
        known = [number(value) for value in cell.values if value is not None]
        missed = f"not reached on {len(cell.values) - len(known)} of {len(cell.values)} seeds"
        return f"{missed}; {', '.join(known)}" if known else missed
    if len(cell.values) == 1 or cell.low is None or cell.high is None:
        return number(cell.mean)
    # The interval over seeds is Student's, which knows no bounds; a share has them.
    low, high = (max(cell.low, 0.0), min(cell.high, 1.0)) if _is_share(figure) else (cell.low, cell.high)
    return f"{number(cell.mean)} [{number(low)}, {number(high)}]"


def _format(figure: Figure) -> Callable[[float], str]:
    """Shares are in per cent with one digit, numbers of rounds are whole, and other figures have three digits."""
    metric = figure.metric
    if figure.rounds_to is not None:
        return lambda value: f"{value:.0f}"
    if metric.partition(":")[0] == "epsilon":
        return epsilon
    return (lambda value: f"{100 * value:.1f}") if _is_share(figure) else (lambda value: f"{value:.3g}")


def _is_share(figure: Figure) -> bool:
    """Whether a figure is in [0, 1] and shown in per cent."""
    metric = figure.metric
    if figure.rounds_to is not None or metric.partition(":")[0] == "epsilon":
        return False
    last = metric.replace(":", ".").rpartition(".")[2]
    return last in _PERCENT or last.startswith("tpr_at") or metric.startswith(_SHARES)


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
