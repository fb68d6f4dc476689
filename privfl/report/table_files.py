"""Tables as the text of CSV, Markdown and LaTeX files, for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]
"""The cells of a table, row by row; the first row is the header."""


def files_of(shown: Rows, numbers: Rows | None = None) -> dict[str, bytes]:
    """Return suffix and content of a table's files.

    Args:
        shown: the cells as readers see them, for Markdown and LaTeX.
        numbers: the cells in full digits, for CSV; the same as ``shown`` if None.
    """
    texts = {"csv": as_csv(shown if numbers is None else numbers), "md": as_markdown(shown), "tex": as_latex(shown)}
    return {suffix: text.encode() for suffix, text in texts.items()}


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
