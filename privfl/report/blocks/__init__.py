"""SHELF of blocks: what each kind of finding shows on the page, in a comparison and on a terminal.

A block has the name of the question whose findings it shows: ``membership`` for
:mod:`privfl.auditing.questions.membership`. The block of a question of your own is a class in the question's module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.errors import ConfigError
from privfl.records import PrivacyResult
from privfl.report.drawing import Drawing
from privfl.report.recorded import Run
from privfl.shelves import SHELVES
from privfl.tables import Item

Tagged = Sequence[tuple[str, Run]]
"""Runs, each with the letter by which figures and tables speak of it."""

Cell = tuple[str, str]
"""A figure, and the interval or terms beneath it."""


@dataclass(frozen=True)
class Headline:
    """One figure: what it is called, its value, its interval or terms, and how to read it."""

    label: str
    value: str
    terms: str
    sentence: str


@dataclass(frozen=True)
class Section:
    """A finding's part of a page: a Jinja template that may use the macros of ``parts.html.j2``, and what it is filled with."""

    template: str
    parts: Mapping[str, Any]
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Column:
    """A column of a comparison: its heading, its shorter heading on a small screen, and the cell of one run."""

    heading: str
    label: str
    cell: Cell


class Block(Item, ABC):
    """The contract. ``promise`` is what the run promises against the finding's adversary; None if it promises nothing."""

    @abstractmethod
    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:
        """The figures that the finding comes down to."""

    @abstractmethod
    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:
        """What a reader must know before any figure; empty if all is well."""

    @abstractmethod
    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:
        """Its part of the page."""

    @abstractmethod
    def measured(self, finding: Finding) -> str:
        """One or two sentences for the table of adversaries."""

    @abstractmethod
    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:
        """Its cells in the row of a run; None: in that run nothing was found, but another run has such a finding."""

    @abstractmethod
    def drawings(self, runs: Tagged, adversary: Adversary) -> list[Drawing]:
        """Its figures in a comparison of runs, not all of which need have such a finding."""

    @abstractmethod
    def table(self, finding: Finding) -> Table:
        """All of it, for a terminal."""


def block_of(question: str) -> Block | None:
    """The block of that question's findings; None if the question is somebody's own and has none, or is not here."""
    try:
        found: Block = SHELVES["block"].find(question)(kind=question)
    except ConfigError:
        return None
    return found


def shown(findings: Sequence[Finding]) -> list[tuple[Block, Finding]]:
    """The findings that have a block, each with it."""
    pairs = [(block_of(finding.question), finding) for finding in findings]
    return [(found, finding) for found, finding in pairs if found is not None]
