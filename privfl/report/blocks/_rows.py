"""A table with a row for each audit or attack, which several blocks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table

from privfl.adversaries import Adversary
from privfl.report.blocks import Cell, Section

Rows = Sequence[tuple[str, Sequence[Cell]]]


def who(adversary: Adversary) -> str:
    """The adversary as a noun."""
    return {"external": "external adversary", "malicious_server": "malicious server"}.get(adversary, adversary)


def section(title: str, prose: str, headings: Sequence[str], rows: Rows, note: str, first: str = "audit") -> Section:
    """A heading, a paragraph, a table, and a note beneath it.

    Args:
        title: of the part.
        prose: the paragraph.
        headings: of all columns but the first.
        rows: the audit's name and its cells.
        note: beneath the table.
        first: the heading of the first column.
    """
    parts = {"title": title, "prose": prose, "headings": headings, "rows": rows, "note": note, "first": first}
    return Section(_TEMPLATE, parts, [])


def table(title: str, headings: Sequence[str], rows: Rows, first: str = "audit") -> Table:
    """The same rows for a terminal."""
    found = Table(first, *headings, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, cells in rows:
        found.add_row(name, *(f"{value} ({under})" if under else value for value, under in cells))
    return found


_TEMPLATE: Final = """\
{% from "parts.html.j2" import cell with context %}
<h3>{{ title }}</h3>
<p class="prose">{{ prose }}</p>
<div class="scroll" role="region" aria-label="{{ title }}" tabindex="0">
<table class="stacked">
<thead><tr><th scope="col">{{ first }}</th>
{% for heading in headings %}<th scope="col">{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, cells in rows %}
<tr><th scope="row">{{ name }}</th>{% for pair in cells %}{{ cell(pair, headings[loop.index0]) }}{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
<p class="note">{{ note }}</p>
</div>
"""
