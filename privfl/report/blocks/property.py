"""Block for property inference: how often a property of clients' data is told from updates, beside a constant answer."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.auditing.questions.property import PropertyFinding, PropertyRecord
from privfl.records import Interval, PrivacyResult
from privfl.report.blocks import Block, Cell, Column, Headline, Section
from privfl.report.blocks import _rows as parts
from privfl.report.wording import NBSP, attack_name, percent, percent_range, plural

_HEADINGS: Final = ("targets", "right answers", "constant answer", "AUC")


class Property(Block):
    """The block of :class:`privfl.auditing.questions.property.PropertyFinding`."""

    kind: str = "property"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since no promise covers a property of many examples."""
        return []

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none."""
        return []

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: a row for each attack and variant."""
        finding = _narrow(finding)
        asked = "; ".join(dict.fromkeys(record.asked.words() for record in finding.attacks))
        prose = (
            f"An attack says whether a client, or all clients of a round together, have a property: {asked}. A constant answer "
            "is right for the share of the more common kind. Differential privacy for examples or clients is no promise about "
            "such a property."
        )
        note = "With 95 % intervals, as if the targets were independent, which sums of overlapping cohorts are not."
        title = f"Property, by the {parts.who(finding.adversary)}"
        return parts.section(title, prose, _HEADINGS, _rows(finding), note, first="attack")

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        return " ".join(
            f"{attack_name(one.attack, one.variant)} tells for {percent(one.right.value)} ({percent_range(one.right)}) of "
            f"{_targets(one)} whether they have the property; a constant answer is right for {percent(one.majority)}."
            for one in _narrow(finding).attacks
        )

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: the share of right answers of each variant, and of a constant answer."""
        found: Cell = ("not measured", "")
        if finding is not None:
            attacks = _narrow(finding).attacks
            shares = ", ".join(f"{attack_name(one.attack, one.variant)}: {percent(one.right.value)}" for one in attacks)
            found = (shares, "constant answer: " + ", ".join(percent(one.majority) for one in attacks))
        return [Column("property of clients told rightly", found)]

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        return parts.table(f"property, by the {parts.who(finding.adversary)}", _HEADINGS, _rows(finding), first="attack")


def _narrow(finding: Finding) -> PropertyFinding:
    assert isinstance(finding, PropertyFinding)
    return finding


def _targets(record: PropertyRecord) -> str:
    if record.clients == 1:
        return plural(record.targets, "client")
    return plural(record.targets, "cohort")


def _rows(finding: PropertyFinding) -> parts.Rows:
    return [
        (
            attack_name(one.attack, one.variant),
            [
                (_targets(one), f"{one.having} with the property"),
                (percent(one.right.value), percent_range(one.right)),
                (percent(one.majority), ""),
                ("–", "") if one.auc is None else (f"{one.auc.value:.3f}", _range(one.auc)),
            ],
        )
        for one in finding.attacks
    ]


def _range(found: Interval) -> str:
    return f"{found.low:.3f}{NBSP}–{NBSP}{found.high:.3f}"
