"""Block for attribute inference: how often a sensitive attribute is named rightly, beside imputation without the model."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.auditing.questions.attribute import AttributeFinding, AttributeRecord, GuessRecord, Shares
from privfl.records import Interval, PrivacyResult
from privfl.report.blocks import Block, Cell, Column, Headline, Section
from privfl.report.blocks import _rows as parts
from privfl.report.wording import NNBSP, attack_name, count, listing, percent, percent_range, plural

_HEADINGS: Final = ("right among members", "right among non-members", "members beyond non-members", "members beyond imputation")


class Attribute(Block):
    """The block of :class:`privfl.auditing.questions.attribute.AttributeFinding`."""

    kind: str = "attribute"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since no promise covers an attribute."""
        return []

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none."""
        return []

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: a row for imputation and each variant."""
        finding = _narrow(finding)
        prose = (
            f"An attack names the value of an attribute of {count(finding.members)} members and {count(finding.nonmembers)} "
            "non-members from the rest of the record, its label and the model. Imputation does so without the model. Only "
            "values beyond imputation are due to the model, and only a gap between the groups is due to training on members. "
            + " ".join(map(_about, finding.attacks))
        )
        note = "With 95 % intervals, as if the records were independent. Differences are in percentage points."
        title = f"Attribute, by the {parts.who(finding.adversary)}"
        return parts.section(title, prose, _HEADINGS, _rows(finding), note, first="attack")

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        return " ".join(
            f"{attack_name(record.attack, one.variant)} names the attribute of {percent(one.right.members.value)} of the "
            f"members, {_points(one.over_imputation)} beyond imputation."
            for record in _narrow(finding).attacks
            for one in record.guesses
        )

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: the variant that names most members' values, beside imputation."""
        found: Cell = ("not measured", "")
        if finding is not None:
            record, one = _best(_narrow(finding))
            name = attack_name(record.attack, one.variant)
            found = (percent(one.right.members.value), f"{name}; imputation {percent(record.imputation.members.value)}")
        return [Column("attribute of a member named rightly", found)]

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        return parts.table(f"attribute, by the {parts.who(finding.adversary)}", _HEADINGS, _rows(finding), first="attack")


def _narrow(finding: Finding) -> AttributeFinding:
    assert isinstance(finding, AttributeFinding)
    return finding


def _about(record: AttributeRecord) -> str:
    columns = f"{'column' if len(record.columns) == 1 else 'columns'} {listing([str(one) for one in record.columns])}"
    return (
        f"The attribute of {attack_name(record.attack, '')} is in {columns} and has {plural(record.values, 'value')}, of which "
        f"the most common is right for {percent(record.majority)} of the members."
    )


def _best(finding: AttributeFinding) -> tuple[AttributeRecord, GuessRecord]:
    found = [(record, one) for record in finding.attacks for one in record.guesses]
    return max(found, key=lambda pair: pair[1].right.members.value)


def _rows(finding: AttributeFinding) -> parts.Rows:
    rows: list[tuple[str, list[Cell]]] = []
    for record in finding.attacks:
        rows.append((f"imputation ({attack_name(record.attack, '')})", [*_cells(record.imputation), ("–", "")]))
        rows += [
            (attack_name(record.attack, one.variant), [*_cells(one.right), _difference(one.over_imputation)])
            for one in record.guesses
        ]
    return rows


def _cells(shares: Shares) -> list[Cell]:
    both = [(percent(one.value), percent_range(one)) for one in (shares.members, shares.nonmembers)]
    return [*both, _difference(shares.gap)]


def _points(found: Interval) -> str:
    return f"{found.value * 100:+.1f}{NNBSP}points"


def _difference(found: Interval) -> Cell:
    return f"{found.value * 100:+.1f}", f"{found.low * 100:+.1f} to {found.high * 100:+.1f}"
