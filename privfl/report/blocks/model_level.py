"""Block for the estimate of what attacks with shadow models would find, from the model alone."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.auditing.questions.model_level import ModelLevelFinding, TailAt
from privfl.records import PrivacyResult
from privfl.report.blocks import Block, Cell, Column, Headline, Section
from privfl.report.blocks import _rows as parts
from privfl.report.wording import attack_name, count, percent, percent_range, rate

_TITLE: Final = "Estimate of what shadow models would find"


class ModelLevel(Block):
    """The block of :class:`privfl.auditing.questions.model_level.ModelLevelFinding`."""

    kind: str = "model_level"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since an estimate is nothing to rely on."""
        return []

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since an estimate contradicts nothing."""
        return []

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: a table of all rates."""
        finding = _narrow(finding)
        prose = (
            f"Training takes members out of the tail of the losses. The shares are those of {count(finding.nonmembers)} "
            f"non-members whose loss is above that of all {count(finding.members)} members but so many. They are about as "
            "large as the share of members that attacks with many shadow models find at the same rate of false positives."
        )
        note = "An estimate, no bound, with the 95 % interval of the share. It is computed from who was a member."
        return parts.section(_TITLE, prose, _headings(finding), _rows(finding), note, first="by")

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        tails = [tail for tail in finding.estimates[0].tails if tail.tnr is not None]
        if not tails:
            return "Too few members to estimate what attacks with shadow models would find."
        share, fpr = _cell(tails[-1])[0], rate(tails[-1].fnr)
        return (
            f"Attacks with shadow models may find about {share} of the members at {fpr} false positives: an estimate, no bound."
        )

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since runs are not compared by estimates."""
        return []

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        return parts.table(f"{_TITLE}, no bound", _headings(finding), _rows(finding), first="by")


def _narrow(finding: Finding) -> ModelLevelFinding:
    assert isinstance(finding, ModelLevelFinding)
    return finding


def _headings(finding: ModelLevelFinding) -> list[str]:
    return [f"TPR at {rate(tail.fnr)} FPR, about" for tail in finding.estimates[0].tails]


def _cell(tail: TailAt) -> Cell:
    return ("not resolvable", "") if tail.tnr is None else (percent(tail.tnr.value, 2), percent_range(tail.tnr, 2))


def _rows(finding: ModelLevelFinding) -> parts.Rows:
    return [(attack_name(one.attack, one.variant), [_cell(tail) for tail in one.tails]) for one in finding.estimates]
