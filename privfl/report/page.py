"""HTML pages from Jinja templates: each is one file without scripts, fonts or links to the network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from privfl.auditing.questions.membership import OutsideFinding
from privfl.data.partitions import Partition
from privfl.learning.tasks import Figure
from privfl.loading import dump
from privfl.privacy.cohorts import CohortSampler
from privfl.report import (
    adversaries,
    clients,
    clusters,
    comparison,
    cost,
    curves,
    headline,
    late_clients,
    partition_figure,
    wording,
)
from privfl.report.blocks import Section, block_of, shown
from privfl.report.card import card, personal_models
from privfl.report.differences import differences
from privfl.report.drawing import COLOURS, Drawing, style
from privfl.report.frontier.points import Point
from privfl.report.run_records import RunRecords
from privfl.report.secure import SecureSummary
from privfl.report.table_files import Rows
from privfl.tables import narrow


@dataclass(frozen=True)
class Page:
    """An HTML page, the figures that it shows, and its tables for papers by file name."""

    html: str
    drawings: list[Drawing]
    tables: Mapping[str, Rows] = field(default_factory=dict)


def run_page(run: RunRecords) -> Page:
    """Render the page of one run."""
    with style():
        over_rounds = [*curves.run_drawings(run), *late_clients.drawings(run)]
        costs_over_rounds = curves.cost_drawings(run)
        sections = [block.section(one, run.promise(one.adversary)) for block, one in shown(run.findings)]
        dealt_out = partition_figure.drawing(run.partition)
    html = fill(
        "run.html.j2",
        run=run,
        verdict=headline.verdict(run),
        lede=_lede(run),
        warnings=headline.warnings(run),
        headlines=headline.headlines(run),
        overhead=headline.overhead(run),
        over_rounds=over_rounds,
        costs=_costs(run, costs_over_rounds),
        metrics=_metrics(run),
        round_notes=_round_notes(run),
        sections=[_section(one) for one in sections],
        adversaries=adversaries.rows(run),
        card=card(run),
        clients=clients.table(run),
        fairness=clients.fairness(run),
        clusters=clusters.facts(run),
        clusters_note=clusters.note(run),
        personal=clients.personal(run),
        personal_note=personal_models(run),
        partition=dealt_out,
        partition_facts=partition_figure.facts(run.partition),
        secure=SecureSummary.of(run),
        model_bytes=wording.byte_size(4 * run.result.parameters),
        toml=dump(run.config),
    )
    drawings = [*over_rounds, *costs_over_rounds, *(drawing for one in sections for drawing in one.drawings), dealt_out]
    tables = {name: rows for one in sections for name, rows in one.tables.items()}
    own = {"personal": clients.personal(run)} if run.result.personal is not None else {}
    return Page(html, drawings, {"clients": clients.table(run), **own, **tables})


def _costs(
    run: RunRecords, drawings: Sequence[Drawing]
) -> list[tuple[str, tuple[str, ...], list[cost.CostRow], Drawing | None]]:
    """Return the parts of the cost; a run without rounds has no figures."""
    of_bytes, of_seconds = drawings or (None, None)
    bytes_heading = ("bytes", "in all", "a round", "an update that reached a sum")
    seconds_heading = ("time, on one machine", "in all", "a round", "share")
    disk_heading = ("files, without this page", "size", "share")
    return [
        ("Bytes", bytes_heading, cost.bytes_table(run), of_bytes),
        ("Seconds", seconds_heading, cost.seconds_table(run), of_seconds),
        (f"The run folder: {wording.byte_size(sum(run.disk.values()))} on disk", disk_heading, cost.disk_table(run), None),
    ]


def notebook_html(run: RunRecords) -> str:
    """Render the headline figures as an HTML fragment for a notebook, in the notebook's own colours."""
    return fill("brief.html.j2", run=run, lede=_lede(run), warnings=headline.warnings(run), headlines=headline.headlines(run))


def outside_page(finding: OutsideFinding) -> Page:
    """Render the page of a model trained outside privfl: the results of its attacks, without records of a run."""
    block = block_of(finding.question)
    assert block is not None
    with style():
        section = block.section(finding, None)
    html = fill(
        "outside.html.j2",
        finding=finding,
        headlines=block.headlines(finding, None),
        section=_section(section),
        warnings=block.warnings(finding, None),
    )
    return Page(html, list(section.drawings), section.tables)


def comparison_page(runs: Sequence[RunRecords], out: Path) -> Page:
    """Render the page that compares several runs; its links are relative to the page's own path ``out``."""
    named = comparison.settings(runs)
    with style():
        drawings = comparison.drawings(named)
    columns = comparison.columns(named)
    points = [point for _, point in named]
    seeds = min(len(point.runs) for point in points)
    html = fill(
        "comparison.html.j2",
        names=list(dict.fromkeys(run.config.name for run in runs)),
        labels=[label for label, _ in named],
        columns=columns,
        rows=[
            (label, [cells[place] for _, cells in columns], _links(point, out)) for place, (label, point) in enumerate(named)
        ],
        compared=comparison.compared(named),
        differences=differences([point.runs[0] for point in points]),
        drawings=drawings,
        runs=sum(len(point.runs) for point in points),
        seeds=seeds,
        warnings=[
            f"{label}, {name}: {warning}"
            for label, point in named
            for name, run in zip(comparison.names(point), point.runs, strict=True)
            for warning in headline.warnings(run)
        ],
    )
    return Page(html, drawings, {"comparison": comparison.table(named)})


def _links(point: Point, out: Path) -> list[tuple[str, str | None]]:
    """Return the name of each run of a setting, with the link to its page."""
    return [(name, link(run, out)) for name, run in zip(comparison.names(point), point.runs, strict=True)]


def link(run: RunRecords, out: Path) -> str | None:
    """Return the link from a page at ``out`` to the run's own page; None if that page does not exist."""
    page = run.path / "report.html"
    return os.path.relpath(page, out.parent) if page.is_file() else None


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("privfl.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"colours": COLOURS, "absent": wording.ABSENT}
    environment.filters |= {
        "count": wording.count,
        "percent": wording.percent,
        "first_small": wording.lower_first,
        "safe_svg": lambda drawing: Markup(drawing.svg),
    }
    return environment


def _section(section: Section) -> Markup:
    return Markup(_templates().from_string(section.template).render(**section.parts))


def fill(template: str, **parts: object) -> str:
    """Render a template with its parts."""
    return _templates().get_template(template).render(**parts)


def _lede(run: RunRecords) -> str:
    config, result = run.config, run.result
    seeded = result.privacy is not None and result.privacy.randomness == "seeded"
    promise = " Its noise is seeded: not private against someone who knows the seed." if seeded else ""
    hiding = "secure aggregation was on" if result.hides_updates else "updates were sent in the clear"
    return (
        f"A {config.model.kind} of {wording.count(result.parameters)} parameters, trained on {config.data.kind} by "
        f"{wording.plural(len(run.partition.clients), 'client')} ({narrow(config.data.partition, Partition).words()}) in "
        f"{wording.plural(result.rounds, 'round')}, {narrow(config.cohort, CohortSampler).words()}{late_clients.words(run)}; "
        f"{hiding}.{promise}"
    )


def _round_notes(run: RunRecords) -> list[str]:
    notes = late_clients.notes(run)
    if run.config.evaluation.every > 1:
        notes.append(f"Evaluated every {run.config.evaluation.every} rounds and after the last.")
    reasons: dict[str, list[str]] = {}
    for record in run.skipped_rounds:
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


_ATTACK_SUCCESS = Figure(
    title="attack success",
    unit="%",
    meaning="Share of {n} test examples with the attackers' trigger that get the attackers' target label.",
    higher_is_better=False,
)


def _metrics(run: RunRecords) -> list[tuple[str, tuple[str, str], str]]:
    """Return title, value with interval, and meaning of each metric; empty if the two metrics with a figure are all."""
    found, groups, success = run.result.evaluation.metrics, run.result.groups, run.result.evaluation.attack_success
    shown = [(name, figure) for name, figure in run.task.figures.items() if name in found]
    if len(shown) <= 2 and not groups and success is None:
        return []
    if success is not None:
        found, shown = {**found, "attack_success": success}, [*shown, ("attack_success", _ATTACK_SUCCESS)]
    headline = run.headline_metric
    of_groups = [
        (
            f"{wording.capitalize(headline.title)}, {name}",
            (wording.measured(headline, one.value), wording.measured_range(headline, one)),
            f"The same on the {wording.plural(one.n, 'test example')} of this group.",
        )
        for name, one in groups.items()
    ]
    return [
        (
            wording.capitalize(figure.title),
            (wording.measured(figure, found[name].value), wording.measured_range(figure, found[name])),
            figure.meaning.format(n=wording.count(found[name].n)),
        )
        for name, figure in shown
    ] + of_groups
