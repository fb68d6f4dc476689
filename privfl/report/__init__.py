"""Reports on finished runs: a self-contained HTML page, its figures, and tables for a terminal.

A report reads the typed records of run folders and nothing else. Each part of the page has a module: ``headline``,
``curves``, ``roc``, ``adversaries``, ``card``, ``partition_figure``, ``cost``, ``secure``, ``comparison``, ``pairing``.
``wording`` formats numbers, ``drawing`` makes figures that follow a light or dark page, ``table_files`` writes tables for
papers, and ``page`` fills the templates. ``blocks/`` has one file for each kind of finding. ``summary``, ``partition_table``
and ``epsilon_curve`` print to a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from privfl.auditing.questions.membership import OutsideFinding
from privfl.report import page
from privfl.report.card import as_json
from privfl.report.run_records import RunRecords
from privfl.report.summary import attacks_tables, findings_tables, summary_table
from privfl.report.table_files import files_of
from privfl.running.run_folder import RunFolder
from privfl.storage import write_atomic, write_json

__all__ = ["attacks_tables", "findings_tables", "notebook_summary", "summary_table", "write_outside", "write_report"]


def notebook_summary(folder: RunFolder) -> str:
    """Return the headline figures of a run as an HTML fragment for a notebook.

    Raises:
        RunFolderError: the run has not finished, or a record of it is damaged.
    """
    return page.notebook_html(RunRecords.read(folder))


def write_outside(finding: OutsideFinding, folder: Path) -> Path:
    """Write the page and the figures of a model trained outside privfl into a folder.

    Returns:
        the path of the page.

    Raises:
        RunFolderError: the folder cannot be written.
        StorageError: the disk is full.
    """
    made = page.outside_page(finding)
    _write_files(made, folder / "figures", folder / "tables", papers=False)
    write_atomic(folder / "report.html", made.html.encode())
    return folder / "report.html"


def write_report(folders: Sequence[RunFolder | Path | str], out: Path | str, *, papers: bool = False) -> Path:
    """Write the page of one run, or a page that compares several runs.

    Each figure is also written as an SVG file, and its numbers as CSV. The files are in ``figures/`` if the page is named
    ``report.html``, else in ``<name of the page>_figures/``. For a single run, the privacy card is also written as JSON.

    Args:
        folders: the folders of finished runs, or their paths; at least one.
        out: the file of the page. For one run it is usually ``folder.path / "report.html"``.
        papers: whether each figure is also written as PDF and PNG, and each table as CSV, Markdown and LaTeX, in ``tables/``
            or ``<name of the page>_tables/``. It takes a second or two more.

    Returns:
        ``out``.

    Raises:
        RunFolderError: a run has not finished, or a record of it is damaged, or ``out`` cannot be written.
        StorageError: the disk is full.
    """
    out = Path(out)
    runs = [RunRecords.read(RunFolder.of(folder)) for folder in folders]
    made = page.run_page(runs[0]) if len(runs) == 1 else page.comparison_page(runs, out)
    figures, tables = (
        out.parent / (name if out.name == "report.html" else f"{out.stem}_{name}") for name in ("figures", "tables")
    )
    _write_files(made, figures, tables, papers=papers)
    write_atomic(out, made.html.encode())
    if len(runs) == 1:
        write_json(
            out.with_name("privacy_card.json" if out.name == "report.html" else f"{out.stem}_privacy_card.json"),
            as_json(runs[0]),
        )
    return out


def _write_files(made: page.Page, figures: Path, tables: Path, *, papers: bool) -> None:
    """Write the files beside a page: its figures, and for papers its tables too."""
    for drawing in made.drawings:
        for suffix, content in (drawing.for_papers() if papers else drawing.files()).items():
            write_atomic(figures / f"{drawing.name}.{suffix}", content)
    for name, rows in made.tables.items() if papers else ():
        for suffix, content in files_of(rows).items():
            write_atomic(tables / f"{name}.{suffix}", content)
