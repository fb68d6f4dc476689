"""Tables for the terminal: the summary of a run, and the results of its attacks."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from privfl.auditing.questions import Finding
from privfl.errors import RunFolderError
from privfl.report.blocks import shown
from privfl.report.headline import headlines, overhead, warnings
from privfl.report.run_records import RunRecords
from privfl.report.secure import certified_numbers, risks
from privfl.running.run_folder import RunFolder


def summary_table(folder: RunFolder) -> Table:
    """Return the headline figures of a run as a table, with its warnings and the path of its page.

    Raises:
        RunFolderError: the run has not finished, or a record of it is damaged.
    """
    run = RunRecords.read(folder)
    table = Table(title=run.title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="dim", max_width=24)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for headline in [*headlines(run), overhead(run)]:
        table.add_row(headline.label, headline.value, headline.terms)
    secure = [record.secure for record in run.rounds if record.secure and record.secure.clients]
    if secure:
        risk = "; ".join(f"{name}: {said}" for name, said in risks(secure))
        table.add_row("Secure aggregation", secure[-1].adversary.replace("_", "-"), f"{certified_numbers(secure[-1])}; {risk}")
    for warning in warnings(run):
        table.add_row("Note", "", warning, style="yellow")
    page = folder.path / "report.html"
    if page.is_file():
        table.add_row("Page", "", str(page))
    return table


def attacks_tables(folder: RunFolder) -> list[Table]:
    """Return the results of a run's attacks, one table for each adversary and question.

    Raises:
        RunFolderError: no attack was run, or a record of it is damaged.
    """
    findings = folder.findings
    if not findings:
        raise RunFolderError(f"{folder.path}: no attack was run; type `privfl attack {folder.path}`")
    return findings_tables(findings)


def findings_tables(findings: Sequence[Finding]) -> list[Table]:
    """Return a table for each finding that has a block."""
    return [block.table(one) for block, one in shown(findings)]
