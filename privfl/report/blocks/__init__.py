"""SHELF of blocks: each shows one kind of finding on the page, in a comparison and on a terminal.

A block has the name of the question whose findings it shows: ``membership`` for
:mod:`privfl.auditing.questions.membership`. If you add a question in your own module, put its block there too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.errors import ConfigError
from privfl.records import PrivacyResult
from privfl.report.drawing import Drawing
from privfl.report.table_files import Rows
from privfl.shelves import SHELVES
from privfl.tables import Item

Cell = tuple[str, str]
"""The value in a cell of a table, and the interval or terms beneath it."""


@dataclass(frozen=True)
class Headline:
    """A headline figure: its label, its value, its interval or terms, and a sentence on how to read it."""

    label: str
    value: str
    terms: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """A finding in one sentence.

    Args:
        leaks: whether a leak is shown.
        epsilon: the lower bound on ε.
        text: the sentence, without its full stop.
    """

    leaks: bool
    epsilon: float
    text: str


@dataclass(frozen=True)
class Section:
    """A finding's section of the page.

    Args:
        template: its Jinja template, which may import the macros of ``parts.html.j2``.
        parts: the template's variables.
        drawings: its figures.
        tables: the file name and the cells of each table that is written for papers.
    """

    template: str
    parts: Mapping[str, Any]
    drawings: Sequence[Drawing]
    tables: Mapping[str, Rows] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of a comparison.

    Args:
        heading: its heading.
        cell: the cell of one run.
        figure: the number in the cell, of which a mean over seeds is taken; None if there is none.
        words: the words for such a number.
        prefix: the sign before it.
        share: whether the number is in [0, 1].
    """

    heading: str
    cell: Cell
    figure: float | None = None
    words: Callable[[float], str] = str
    prefix: str = ""
    share: bool = False


class Block(Item, ABC):
    """The contract of blocks.

    ``promise`` is the differential privacy that the run promises against the finding's adversary; None if there is none.
    """

    @abstractmethod
    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:
        """Return the headline figures of the finding."""

    @abstractmethod
    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:
        """Return the warnings that stand above all figures; empty if there are none."""

    def verdict(self, finding: Finding, promise: PrivacyResult | None) -> Verdict | None:  # noqa: ARG002
        """Return the finding in one sentence for the top of the page; None if it says nothing about members or ε."""
        return None

    @abstractmethod
    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:
        """Return the finding's section of the page."""

    @abstractmethod
    def measured(self, finding: Finding) -> str:
        """Return the result in one or two sentences, for the table of adversaries."""

    @abstractmethod
    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:
        """Return the columns of a run in a comparison; ``finding`` is None if only other runs have such a finding."""

    @abstractmethod
    def table(self, finding: Finding) -> Table:
        """Return the complete finding as a table for a terminal."""


def block_of(question: str) -> Block | None:
    """Return the block for a question's findings; None if its module defines none or is not installed."""
    try:
        found: Block = SHELVES["block"].find(question)(kind=question)
    except ConfigError:
        return None
    return found


def shown(findings: Sequence[Finding]) -> list[tuple[Block, Finding]]:
    """Return the findings that have a block, each with its block."""
    pairs = [(block_of(finding.question), finding) for finding in findings]
    return [(found, finding) for found, finding in pairs if found is not None]
