"""The page of a frontier, and the files beside it: figures and tables as they go into papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from privfl.report import page
from privfl.report.drawing import style
from privfl.report.frontier import figures, tables, verdict
from privfl.report.frontier.points import LEVEL, Frontier, frontier
from privfl.report.run_records import RunRecords
from privfl.report.table_files import files_of
from privfl.report.wording import level
from privfl.running.run_folder import RunFolder
from privfl.storage import write_atomic


def write_frontier(folders: Sequence[RunFolder | Path | str], out: Path, failed: Mapping[str, str]) -> Frontier:
    """Write ``frontier.html`` and, beside it, ``figures/`` (SVG, PDF, PNG, CSV) and ``tables/`` (CSV, Markdown, LaTeX).

    Args:
        folders: finished runs, at least one, or where they lie.
        out: the folder.
        failed: name -> error of each run that could not be run, or failed.

    Returns:
        the points.

    Raises:
        ConfigError: the runs are on different data.
        RunFolderError: a run has not finished, or ``out`` cannot be written.
    """
    found = frontier([RunRecords.read(RunFolder.of(folder)) for folder in folders], dict(failed))
    with style():
        drawn = figures.drawings(found)
    for drawing in drawn:
        for suffix, content in drawing.for_papers().items():
            write_atomic(out / "figures" / f"{drawing.name}.{suffix}", content)
    table = tables.shown(found)
    for suffix, content in files_of(table, tables.numbers(found)).items():
        write_atomic(out / "tables" / f"frontier.{suffix}", content)
    html = page.fill(
        "frontier.html.j2",
        name=found.points[0].runs[0].config.name,
        frontier=found,
        verdict=verdict.sentences(found),
        drawings=drawn,
        header=table[0],
        rows=[
            (row, [(run.config.seed, page.link(run, out / "frontier.html")) for run in point.runs])
            for point, row in zip(found.points, table[1:], strict=True)
        ],
        level=level(LEVEL),
    )
    write_atomic(out / "frontier.html", html.encode())
    return found
