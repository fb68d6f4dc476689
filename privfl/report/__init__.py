"""From run folders to what a person looks at: one self-contained HTML page, its figures, a short table at the end of a run.

A plain package, one module for each part of the page: ``headline``, ``curves``, ``roc``, ``adversaries``, ``card``,
``partition_figure``, ``cost``, ``comparison``; ``wording`` puts figures into words, ``drawing`` makes figures that
follow a light or dark page, ``page`` fills the templates. ``blocks/`` has a file for
each kind of finding. It reads the typed records of run folders and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from privfl.auditing.questions.membership import OutsideFinding
from privfl.report import page
from privfl.report.card import as_json
from privfl.report.recorded import Run
from privfl.report.summary import attacks_tables, findings_tables, summary_table
from privfl.running.run_folder import RunFolder
from privfl.storage import write_atomic, write_json

__all__ = ["attacks_tables", "findings_tables", "notebook_summary", "summary_table", "write_outside", "write_report"]


def notebook_summary(folder: RunFolder) -> str:
    """The headline figures of a run as a piece of HTML that a notebook shows.

    Raises:
        RunFolderError: the run has not finished, or a record of it is damaged.
    """
    return page.in_brief(Run.read(folder))


def write_outside(finding: OutsideFinding, folder: Path) -> Path:
    """Write the page and the figures of a model that was trained elsewhere into a folder.

    Returns:
        the page.

    Raises:
        RunFolderError: the folder cannot be written.
        StorageError: the disk is full.
    """
    made = page.of_outside(finding)
    for drawing in made.drawings:
        write_atomic(folder / "figures" / f"{drawing.name}.svg", drawing.standing_alone().encode())
    write_atomic(folder / "report.html", made.html.encode())
    return folder / "report.html"


def write_report(folders: Sequence[RunFolder | Path | str], out: Path | str) -> Path:
    """Write the page of a run, or of several runs side by side.

    The figures are written beside the page too, as SVG files that stand alone: in ``figures/`` for a ``report.html``,
    else in ``<name of the page>_figures/``.

    Args:
        folders: finished runs, at least one; or where they lie.
        out: the page's file; of one run it is usually ``folder.path / "report.html"``.

    Returns:
        ``out``.

    Raises:
        RunFolderError: a run has not finished, or a record of it is damaged, or ``out`` cannot be written.
        StorageError: the disk is full.
    """
    out = Path(out)
    runs = [Run.read(RunFolder.of(folder)) for folder in folders]
    made = page.of_run(runs[0]) if len(runs) == 1 else page.of_runs(runs, out)
    figures = out.parent / ("figures" if out.name == "report.html" else f"{out.stem}_figures")
    for drawing in made.drawings:
        write_atomic(figures / f"{drawing.name}.svg", drawing.standing_alone().encode())
    write_atomic(out, made.html.encode())
    if len(runs) == 1:
        write_json(
            out.with_name("privacy_card.json" if out.name == "report.html" else f"{out.stem}_privacy_card.json"),
            as_json(runs[0]),
        )
    return out
