"""``privfl report``: write the page of a run, or the comparison of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli import follow_up
from privfl.running.run_folder import RunFolder

EXAMPLE: Final = "privfl report runs/quickstart runs/no-privacy --out comparison.html"


def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that `privfl run` made.")],
    out_file: Annotated[Path | None, typer.Option("--out", help="The page's file.")] = None,
    papers: Annotated[bool, typer.Option("--papers", help="Also write figures as PDF and PNG, and tables.")] = False,
) -> None:
    """Write the page of a run, or the comparison of several."""
    follow_up.write_page([RunFolder.open(path) for path in run_dirs], out_file, papers=papers)
