"""Fill the templates: a page is one HTML file that needs nothing else, no script, no font, no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from privfl.auditing.questions.membership import OutsideFinding
from privfl.data.partitions import Partition
from privfl.loading import dump
from privfl.privacy.cohorts import CohortSampler
from privfl.records import Interval
from privfl.report import adversaries, comparison, cost, curves, headline, pairing, partition_figure, wording
from privfl.report.blocks import Section, block_of, shown
from privfl.report.card import card
from privfl.report.drawing import COLOURS, Drawing, style
from privfl.report.recorded import Run
from privfl.report.secure import Secure
from privfl.tables import narrow


@dataclass(frozen=True)
class Page:
    """A page and the figures in it."""

    html: str
    drawings: list[Drawing]


def of_run(run: Run) -> Page:
    """The page of one run."""
    with style():
        over_rounds = curves.of_run(run)
        sections = [block.section(one, run.promise(one.adversary)) for block, one in shown(run.findings)]
        dealt_out = partition_figure.drawing(run.partition)
    html = fill(
        "run.html.j2",
        run=run,
        lede=_lede(run),
        warnings=headline.warnings(run),
        headlines=headline.headlines(run),
        over_rounds=over_rounds,
        metrics=_metrics(run),
        round_notes=_round_notes(run),
        sections=[_section(one) for one in sections],
        adversaries=adversaries.rows(run),
        card=card(run),
        partition=dealt_out,
        partition_facts=partition_figure.facts(run.partition),
        bytes_table=cost.bytes_table(run),
        seconds_table=cost.seconds_table(run),
        secure=Secure.of(run),
        model_bytes=wording.amount(4 * run.result.parameters),
        toml=dump(run.config),
    )
    return Page(html, [*over_rounds, *(drawing for one in sections for drawing in one.drawings), dealt_out])


def in_brief(run: Run) -> str:
    """The page's headline row as a piece of HTML for a notebook: no style sheet, and colours of the page that it stands in."""
    return fill("brief.html.j2", run=run, lede=_lede(run), warnings=headline.warnings(run), headlines=headline.headlines(run))


def of_outside(finding: OutsideFinding) -> Page:
    """The page of a model that was trained elsewhere: what was found, and no run around it."""
    block = block_of(finding.question)
    assert block is not None
    with style():
        section = block.section(finding, None)
    groups = [(one.group, wording.count(one.members), wording.count(one.nonmembers), _area(one.auc)) for one in finding.groups]
    html = fill(
        "outside.html.j2",
        finding=finding,
        headlines=block.headlines(finding, None),
        section=_section(section),
        groups=groups,
        level=wording.level(1 - 0.05 / max(len(groups), 1)),
    )
    return Page(html, list(section.drawings))


def _area(auc: Interval | None) -> tuple[str, str]:
    return ("not measured", "") if auc is None else (f"{auc.value:.3f}", f"{auc.low:.3f} – {auc.high:.3f}")


def of_runs(runs: Sequence[Run], out: Path) -> Page:
    """The page that sets several runs side by side; links in it are relative to ``out``."""
    tagged, asked = comparison.tagged(runs), comparison.asked(runs)
    with style():
        drawings = [*comparison.drawings(tagged), *curves.of_runs(tagged)]
    titles = {run.headline.title for run in runs}
    html = fill(
        "comparison.html.j2",
        names=[run.title for run in runs],
        tags=[tag for tag, _ in tagged],
        rows=[
            comparison.row(run, tag, link(run, out), asked, paired)
            for (tag, run), paired in zip(tagged, pairing.pairings(tagged), strict=True)
        ],
        quality="test result" if len(titles) > 1 else f"test {titles.pop()}",
        differences=comparison.differences(runs),
        drawings=drawings,
        warnings=[f"{tag}: {warning}" for tag, run in tagged for warning in headline.warnings(run)],
    )
    return Page(html, drawings)


def link(run: Run, out: Path) -> str | None:
    """From a page at ``out`` to the run's own page, where it has one."""
    page = run.path / "report.html"
    return os.path.relpath(page, out.parent) if page.is_file() else None


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("privfl.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"colours": COLOURS, "absent": wording.ABSENT}
    environment.filters |= {"count": wording.count, "percent": wording.percent, "safe_svg": lambda drawing: Markup(drawing.svg)}
    return environment


def _section(section: Section) -> Markup:
    return Markup(_templates().from_string(section.template).render(**section.parts))


def fill(template: str, **parts: object) -> str:
    """A page from a template and its parts."""
    return _templates().get_template(template).render(**parts)


def _lede(run: Run) -> str:
    config, result = run.config, run.result
    promise = (
        "It promises nothing" if result.privacy is None else f"It promises {result.privacy.unit}-level differential privacy"
    )
    if result.privacy is not None and result.privacy.randomness == "seeded":
        promise += " (seeded: not private against someone who knows the seed)"
    hiding = "secure aggregation was on" if result.hides_updates else "updates were sent in the clear"
    return (
        f"A {config.model.kind} of {wording.count(result.parameters)} parameters, trained on {config.data.kind} by "
        f"{wording.plural(len(run.partition.clients), 'client')} ({narrow(config.data.partition, Partition).words()}) in "
        f"{wording.plural(result.rounds, 'round')}, {narrow(config.cohort, CohortSampler).words()}. {promise}; {hiding}."
    )


def _round_notes(run: Run) -> list[str]:
    notes = []
    if run.config.evaluation.every > 1:
        notes.append(f"Evaluated every {run.config.evaluation.every} rounds and after the last.")
    reasons: dict[str, list[str]] = {}
    for record in run.skipped:
        reasons.setdefault(record.skipped or "", []).append(str(record.round + 1))
    for reason, rounds in reasons.items():
        word = "Round" if len(rounds) == 1 else "Rounds"
        notes.append(f"{word} {wording.listing(rounds)} skipped: {reason}.")
    clipped = sum(record.clipped_coordinates for record in run.rounds)
    if clipped:
        notes.append(
            f"The secure sum's encoding clipped {wording.plural(clipped, 'coordinate')} of the updates over the whole run."
        )
    return notes


def _metrics(run: Run) -> list[tuple[str, tuple[str, str], str]]:
    """Title, figure with interval, and meaning of every metric, if the task has others than the two that are drawn."""
    found = run.result.evaluation.metrics
    shown = [(name, figure) for name, figure in run.task.figures.items() if name in found]
    if len(shown) <= 2:
        return []
    return [
        (
            wording.capital(figure.title),
            (wording.measured(figure, found[name].value), wording.measured_range(figure, found[name])),
            figure.meaning.format(n=wording.count(found[name].n)),
        )
        for name, figure in shown
    ]
