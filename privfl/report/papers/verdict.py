"""The verdict on a row of a paper: its status, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from privfl.papers import Figure, Paper
from privfl.records import PaperCell, PaperResult
from privfl.report.frontier.points import over_seeds
from privfl.report.wording import capitalize
from privfl.running.paper_rows import PaperRow

Status = Literal["reproduced", "reproduced with own tuning", "method check", "not reproduced", "not run"]

STATUSES: Final[Mapping[Status, str]] = {
    "reproduced": "The mean over three seeds or more agrees with the paper's value, or the order holds on every seed.",
    "reproduced with own tuning": "The same, with a learning rate that was tuned here, since the paper does not give it.",
    "method check": "Data or size are a stand-in, or the claim is from memory: never counted as reproduced.",
    "not reproduced": "The figure disagrees; the note says why.",
    "not run": "A GPU, data or a module are missing, or nothing was recorded yet.",
}
"""Every status and its meaning, in the order in which tables count them."""

SEEDS: Final = 3
"""The least number of seeds of a row that counts as reproduced; one is enough if nothing is trained."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a row.

    Args:
        row: the row.
        result: its result with means and intervals; None if it was not run.
        status: its status.
        holds: whether every cell agrees with its claim; None if it was not run.
        why: a sentence about it; empty if there is nothing to say.
    """

    row: PaperRow
    result: PaperResult | None
    status: Status
    holds: bool | None
    why: str


def verdicts(
    rows: Mapping[str, PaperRow], results: Mapping[str, PaperResult], reasons: Mapping[str, str] | None = None
) -> list[Verdict]:
    """The verdict on each row.

    Args:
        rows: the rows by name.
        results: their results by name, as far as there are any. A result of other settings than the row's does not count.
        reasons: the reason why a row was not run, by name, if it is known.
    """
    current = {name: averaged(one) for name, one in results.items() if name in rows and one.digest == rows[name].digest}
    found = []
    for name, row in rows.items():
        why = (reasons or {}).get(name) or (_stale(row) if name in results else _unrun(row))
        found.append(_verdict(row, current[name], current) if name in current else Verdict(row, None, "not run", None, why))
    return found


def averaged(result: PaperResult) -> PaperResult:
    """The result with mean and interval of each cell."""
    return result.model_copy(update={"cells": [_averaged(cell) for cell in result.cells]})


def _averaged(cell: PaperCell) -> PaperCell:
    values = [value for value in cell.values if value is not None]
    if len(values) < len(cell.values):
        return PaperCell(name=cell.name, values=cell.values)
    over = over_seeds(values)
    return PaperCell(name=cell.name, values=cell.values, mean=over.value, low=over.low, high=over.high)


def _stale(row: PaperRow) -> str:
    return f"its settings were changed after it was run; `privfl reproduce {row.name}` runs it again"


def _unrun(row: PaperRow) -> str:
    if row.paper.note is not None:
        return row.paper.note
    if row.paper.device == "gpu":
        return f"needs a GPU (about {row.paper.minutes:g} min a seed)"
    return f"needs {' and '.join(row.paper.needs)}" if row.paper.needs else "no result is recorded"


def _verdict(row: PaperRow, result: PaperResult, results: Mapping[str, PaperResult]) -> Verdict:
    paper = row.paper
    if len(result.cells) != len(paper.cells):
        return Verdict(row, None, "not run", None, _stale(row))
    absent = [name for name in paper.partners if name not in results]
    if absent:
        return Verdict(row, result, "not run", None, f"it is compared with {' and '.join(absent)}, which was not run")
    disagreements = [
        words
        for figure, cell in zip(paper.cells, result.cells, strict=True)
        if (words := _disagreement(figure, cell, result.seeds, results)) is not None
    ]
    holds = not disagreements
    seeds = _common_seeds(paper, result, results)
    status = _status(paper, holds, enough=not paper.trained or len(seeds) >= SEEDS)
    return Verdict(row, result, status, holds, _words(paper, status, disagreements, len(seeds)))


def _status(paper: Paper, holds: bool, *, enough: bool) -> Status:
    if paper.stand_in is not None or paper.provenance == "memory":
        return "method check"
    if not holds:
        return "not reproduced"
    if not enough:
        return "not run"
    return "reproduced with own tuning" if paper.learning_rate == "tuned" else "reproduced"


def _words(paper: Paper, status: Status, disagreements: Sequence[str], seeds: int) -> str:
    parts = [] if paper.stand_in is None else [paper.stand_in]
    if paper.provenance == "memory":
        parts.append("The claim is from memory.")
    if status == "not run":
        parts.append(f"It has {seeds} of the {SEEDS} seeds that it needs.")
    if disagreements:
        parts.append(paper.note or "; ".join(disagreements))
    return " ".join(map(_sentence, parts))


def _sentence(words: str) -> str:
    return capitalize(words.removesuffix(".")) + "."


def _common_seeds(paper: Paper, result: PaperResult, results: Mapping[str, PaperResult]) -> set[int]:
    """The seeds that the row and all rows that it is compared with have."""
    return set(result.seeds).intersection(*(results[name].seeds for name in paper.partners))


def _disagreement(figure: Figure, cell: PaperCell, seeds: Sequence[int], results: Mapping[str, PaperResult]) -> str | None:
    """The words for a cell that does not agree with its claim; None if it does."""
    before = f"{figure.name}: " if figure.name else ""
    if figure.ordered:
        wrong = _disorder(figure, cell, seeds, results)
        return None if wrong is None else before + wrong
    if cell.mean is None:
        missed = sum(value is None for value in cell.values)
        return f"{before}the target {figure.target:g} was not reached on {missed} of {len(cell.values)} seeds"
    assert figure.claim is not None
    if figure.tolerance is not None:
        # Means of decimal fractions differ from them by rounding.
        off = cell.mean - figure.claim
        return (
            None
            if abs(off) <= figure.tolerance + 1e-9
            else f"{before}ours is off by {off:+.3g}, more than {figure.tolerance:g}"
        )
    assert figure.factor is not None
    ratio = cell.mean / figure.claim
    return None if 1 / figure.factor <= ratio <= figure.factor else f"{before}ours is {ratio:.2f} times the claim"


def _disorder(figure: Figure, cell: PaperCell, seeds: Sequence[int], results: Mapping[str, PaperResult]) -> str | None:
    ours = dict(zip(seeds, _comparable(cell), strict=True))
    for names, sign, word in ((figure.above, 1.0, "above"), (figure.below, -1.0, "below")):
        for name in names:
            other = results[name]
            cells = [one for one in other.cells if one.name == figure.name] or other.cells
            theirs = dict(zip(other.seeds, _comparable(cells[0]), strict=True))
            both = [seed for seed in seeds if seed in theirs]
            # Two that were not reached are not in order, and their difference is no number.
            right = sum(bool(sign * ours[seed] > sign * theirs[seed] + figure.by) for seed in both)
            if right < len(both):
                return f"it is {word} {name} on {right} of {len(both)} seeds"
    return None


def _comparable(cell: PaperCell) -> list[float]:
    """The values; a number of rounds that was not reached is infinite."""
    return [np.inf if value is None else value for value in cell.values]
