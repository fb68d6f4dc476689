"""Block for source inference: how often attacks name the client that trained on an example."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.auditing.questions.source import SourceFinding
from privfl.records import PrivacyResult
from privfl.report.blocks import Block, Cell, Column, Headline, Section
from privfl.report.wording import attack_name, percent, percent_range, rounds_read


class Source(Block):
    """The block of :class:`privfl.auditing.questions.source.SourceFinding`."""

    kind: str = "source"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since no promise covers the source."""
        return []

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none."""
        return []

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: a table of all variants."""
        finding = _narrow(finding)
        rows = [(name, cell) for name, cell in _cells(finding)]
        return Section(_TEMPLATE, {"finding": finding, "rows": rows, "chance": percent(finding.chance)}, [])

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        shares = "; ".join(f"{name}: {share} ({interval})" for name, (share, interval) in _cells(finding))
        return f"The client that trained on a member is named correctly by {shares}. Guessing: {percent(finding.chance)}."

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: the share of right guesses of each variant, and of guessing."""
        found: Cell = ("not measured", "")
        if finding is not None:
            finding = _narrow(finding)
            shares = ", ".join(f"{name}: {share} ({interval})" for name, (share, interval) in _cells(finding))
            found = (shares, f"guessing: {percent(finding.chance)}")
        return [Column("client of a member named correctly", found)]

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        rounds = tuple(sorted({number for one in finding.attacks for number in one.rounds}))
        title = f"source, by the {finding.adversary}, from {rounds_read(rounds)}; guessing: {percent(finding.chance)}"
        table = Table("attack", "named correctly", "", title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name, (share, interval) in _cells(finding):
            table.add_row(name, share, interval)
        return table


def _narrow(finding: Finding) -> SourceFinding:
    assert isinstance(finding, SourceFinding)
    return finding


def _cells(finding: SourceFinding) -> list[tuple[str, Cell]]:
    """Return each variant's name with its share of right guesses and the interval."""
    return [
        (attack_name(one.attack, one.variant), (percent(one.right.value), percent_range(one.right))) for one in finding.attacks
    ]


_TEMPLATE: Final = """\
{% from "parts.html.j2" import cell with context %}
<h3>Source, by the {{ finding.adversary }}</h3>
<p class="prose">For each of {{ finding.members | count }} examples that were trained on, an attack names one of
{{ finding.clients | count }} clients. Always naming the client with the most examples is right for {{ chance }}.</p>
<div class="scroll" role="region" aria-label="Clients named correctly" tabindex="0">
<table class="stacked">
<thead><tr><th scope="col">attack</th><th scope="col">client named correctly</th></tr></thead>
<tbody>
{% for name, pair in rows %}
<tr><th scope="row">{{ name }}</th>{{ cell(pair, "client named correctly") }}</tr>
{% endfor %}
</tbody>
</table>
<p class="note">With 95 % intervals, as if the examples were independent.</p>
</div>
"""
