"""Block for the audits of ε: lower bounds that canaries give, valid for any mechanism."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.auditing.questions.epsilon import EpsilonFinding, EpsilonRecord
from privfl.records import PrivacyResult
from privfl.report.blocks import Block, Cell, Column, Headline, Section, Verdict
from privfl.report.blocks import _rows as parts
from privfl.report.wording import attack_name, count, epsilon, level, listing

_HEADINGS: Final = ("ε is at least", "ceiling", "right guesses")


class Epsilon(Block):
    """The block of :class:`privfl.auditing.questions.epsilon.EpsilonFinding`."""

    kind: str = "epsilon"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: the largest of the bounds."""
        finding = _narrow(finding)
        best = max(finding.audits, key=lambda one: one.epsilon_lower)
        sentence = (
            f"Right guesses about canaries refute every smaller ε, whatever the mechanism is; promised: {_promised(finding)}. "
            f"No ε above {epsilon(best.ceiling)} could have been refuted by so many guesses."
        )
        terms = f"{level(best.level)} confidence; {epsilon(best.ceiling)} at most"
        return [Headline(f"Audited ε, {finding.adversary}", f"≥ {epsilon(best.epsilon_lower)}", terms, sentence)]

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: bounds above the promise."""
        finding = _narrow(finding)
        names = [attack_name(one.attack, one.variant) for one in finding.contradicts()]
        if not names:
            return []
        return [
            f"Canaries refute the promised ε of {_promised(finding)}, by {listing(names)}. Take the promise as broken until "
            "the cause is found."
        ]

    def verdict(self, finding: Finding, promise: PrivacyResult | None) -> Verdict:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: the largest of the bounds."""
        finding = _narrow(finding)
        most = max(one.epsilon_lower for one in finding.audits)
        text = f"Canaries seen by the {parts.who(finding.adversary)} refute every ε below {epsilon(most)}"
        return Verdict(most > 0, most, f"{text}; promised: {_promised(finding)}")

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: a table of all audits."""
        finding = _narrow(finding)
        prose = (
            f"{count(finding.canaries)} canaries were planted. A fair coin decided for each whether it was trained on, and "
            f"{count(finding.members)} were. Guesses about half of them are counted; the other half chose how many. "
            f"The ceiling is the bound had all guesses been right. Promised is ε = {_promised(finding)}. A bound far below is "
            "usual and does not show that the promise is loose."
        )
        note = "Lower bounds on ε, valid for any mechanism, all of them together with 95 % confidence."
        return parts.section(
            f"Lower bounds on ε, by the {parts.who(finding.adversary)}", prose, _HEADINGS, _rows(finding), note
        )

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        bounds = "; ".join(_said(one) for one in finding.audits)
        return f"Lower bounds on ε by canaries (promised: {_promised(finding)}): {bounds}."

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:
        """See :class:`privfl.report.blocks.Block`: the largest of the bounds."""
        found: Cell = ("not measured", "")
        if finding is not None:
            best = max(_narrow(finding).audits, key=lambda one: one.epsilon_lower)
            found = (f"≥ {epsilon(best.epsilon_lower)}", f"{level(best.level)} confidence; {epsilon(best.ceiling)} at most")
        return [Column(f"audited ε, {adversary}", found)]

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        title = f"lower bounds on ε, by the {parts.who(finding.adversary)}; promised: {_promised(finding)}"
        return parts.table(title, _HEADINGS, _rows(finding))


def _narrow(finding: Finding) -> EpsilonFinding:
    assert isinstance(finding, EpsilonFinding)
    return finding


def _promised(finding: EpsilonFinding) -> str:
    return "none" if finding.promised is None else epsilon(finding.promised)


def _said(one: EpsilonRecord) -> str:
    return f"{attack_name(one.attack, one.variant)} ≥ {epsilon(one.epsilon_lower)} (at most {epsilon(one.ceiling)})"


def _rows(finding: EpsilonFinding) -> parts.Rows:
    return [
        (
            attack_name(one.attack, one.variant),
            [
                (f"≥ {epsilon(one.epsilon_lower)}", f"{level(one.level)} confidence"),
                (epsilon(one.ceiling), ""),
                (f"{count(one.correct)} of {count(one.guesses)}", f"about {count(one.candidates)} canaries"),
            ],
        )
        for one in finding.audits
    ]
