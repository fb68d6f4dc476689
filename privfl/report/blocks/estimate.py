"""Block for estimates of ε from canaries, which are no bounds."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.auditing.questions.estimate import EstimateFinding
from privfl.records import PrivacyResult
from privfl.report.blocks import Block, Cell, Column, Headline, Section
from privfl.report.blocks import _rows as parts
from privfl.report.wording import attack_name, count, epsilon, scientific

_HEADINGS: Final = ("method", "estimate of ε")
_METHODS: Final = {"two_gaussians": "two Gaussians", "one_shot": "one-shot"}


class Estimate(Block):
    """The block of :class:`privfl.auditing.questions.estimate.EstimateFinding`."""

    kind: str = "estimate"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since an estimate is nothing to rely on."""
        return []

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since an estimate above the promise contradicts nothing."""
        return []

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: a table of all estimates."""
        finding = _narrow(finding)
        promised = "none" if finding.promised is None else epsilon(finding.promised)
        prose = (
            f"Numbers near ε if a model of the scores of {count(finding.canaries)} canaries holds, at δ = "
            f"{scientific(finding.delta)}. They are often above the true ε and contradict no promise. Promised: {promised}."
        )
        if finding.last_iterate is not None:
            prose += f" {_last(finding)}"
        note = "Estimates, no bounds."
        return parts.section(f"Estimates of ε, by the {parts.who(finding.adversary)}", prose, _HEADINGS, _rows(finding), note)

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        found = "; ".join(f"{name}: {cells[-1][0]}" for name, cells in _rows(finding))
        return f"Estimates of ε by canaries, no bounds: {found}."

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since runs are not compared by estimates."""
        return []

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        title = f"estimates of ε, no bounds, by the {parts.who(finding.adversary)}, at δ = {scientific(finding.delta)}"
        rows = list(_rows(finding))
        if finding.last_iterate is not None:
            terms: list[Cell] = [("of the last iterate, from the settings alone", ""), (epsilon(finding.last_iterate), "")]
            rows.append(("last iterate", terms))
        return parts.table(title, _HEADINGS, rows)


def _narrow(finding: Finding) -> EstimateFinding:
    assert isinstance(finding, EstimateFinding)
    return finding


def _last(finding: EstimateFinding) -> str:
    assert finding.last_iterate is not None
    return (
        f"By the settings alone, an attack on the final model is expected to reach {epsilon(finding.last_iterate)} at most, "
        "as if the loss were linear (the last iterate estimate)."
    )


def _rows(finding: EstimateFinding) -> parts.Rows:
    return [
        (
            attack_name(one.attack, one.variant),
            [(_METHODS[one.method], ""), ("none", one.reason or "") if one.epsilon is None else (epsilon(one.epsilon), "")],
        )
        for one in finding.estimates
    ]
