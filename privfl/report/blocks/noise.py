"""Block for the audits of the noise: bounds on the noise of the mechanism of the run, and none on ε."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.auditing.questions.noise import NoiseFinding, NoiseRecord
from privfl.records import PrivacyResult
from privfl.report.blocks import Block, Cell, Column, Headline, Section
from privfl.report.blocks import _rows as parts
from privfl.report.wording import attack_name, count, level, listing

_HEADINGS: Final = ("method", "the noise multiplier is below", "at best")
_METHODS: Final = {"clopper_pearson": "Clopper–Pearson", "one_run": "f-DP, one run", "gaussian_pair": "pair of Gaussians"}


class Noise(Block):
    """The block of :class:`privfl.auditing.questions.noise.NoiseFinding`."""

    kind: str = "noise"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: the least noise that is refuted."""
        finding = _narrow(finding)
        if finding.promised is None:
            return []
        sentence = (
            f"If sampling, steps and clipping are as the run says, canaries refute every larger noise multiplier. Promised is "
            f"{finding.promised:.3g}. It says nothing about another mechanism, and is no bound on ε."
        )
        value, terms = _least(finding)
        return [Headline(f"Audited noise, {finding.adversary}", value, terms, sentence)]

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: the promised noise, if it is refuted."""
        finding = _narrow(finding)
        names = [attack_name(one.attack, one.variant) for one in finding.contradicts()]
        if not names:
            return []
        return [
            f"Canaries refute the promised noise multiplier of {finding.promised:.3g}, by "
            f"{listing(list(dict.fromkeys(names)))}. Noise, clipping or sampling is not as promised. "
            "Take the promise as broken until the cause is found."
        ]

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: a table of all audits."""
        finding = _narrow(finding)
        promised = "Nothing is promised, so that there is no mechanism to hold them against."
        if finding.promised is not None:
            promised = (
                "Their scores are held against the mechanism of this run with other noise. The promised noise multiplier "
                f"is {finding.promised:.3g}. A bound at or below it says that noise, clipping or sampling is not as promised."
            )
        prose = (
            f"{count(finding.canaries)} canaries were planted, of which {count(finding.members)} were trained on. {promised}"
        )
        note = (
            "Bounds on the noise of this mechanism, all of them together with 95 % confidence; no bounds on ε. The last column "
            "is the bound had every guess been right: no smaller noise could have been refuted. Clopper–Pearson counts "
            "canaries as independent trials; the pair of Gaussians takes their signals to be Gaussian as well."
        )
        return parts.section(f"Noise, by the {parts.who(finding.adversary)}", prose, _HEADINGS, _rows(finding), note)

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        if finding.promised is None:
            return "Noise by canaries: nothing is promised."
        value, terms = _least(finding)
        return f"Noise multiplier by canaries: {value} ({terms}); promised: {finding.promised:.3g}."

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:
        """See :class:`privfl.report.blocks.Block`: the least noise that is refuted."""
        found: Cell = ("not measured", "") if finding is None else _least(_narrow(finding))
        return [Column(f"audited noise, {adversary}", found)]

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        promised = "none" if finding.promised is None else f"{finding.promised:.3g}"
        title = f"bounds on the noise, by the {parts.who(finding.adversary)}; promised noise multiplier: {promised}"
        return parts.table(title, _HEADINGS, _rows(finding))


def _narrow(finding: Finding) -> NoiseFinding:
    assert isinstance(finding, NoiseFinding)
    return finding


def _below(one: NoiseRecord) -> str:
    return "nothing refuted" if one.below is None else f"below {one.below:.3g}"


def _best(one: NoiseRecord) -> Cell:
    """The least noise multiplier that the audit could have refuted."""
    if one.least is None:
        return "no bound", ""
    return (f"below {one.least:.3g}" if one.least else "any", "")


def _least(finding: NoiseFinding) -> Cell:
    """The least noise multiplier that is refuted, and on which terms."""
    refuted = [one for one in finding.audits if one.below is not None]
    if not refuted:
        return "nothing refuted", ""
    best = min(refuted, key=lambda one: one.below or 0.0)
    return _below(best), f"{level(best.level)} confidence, {_METHODS[best.method]}"


def _rows(finding: NoiseFinding) -> parts.Rows:
    return [
        (
            attack_name(one.attack, one.variant),
            [
                (_METHODS[one.method], f"{count(one.candidates)} canaries"),
                (_below(one), f"{level(one.level)} confidence"),
                _best(one),
            ],
        )
        for one in finding.audits
    ]
