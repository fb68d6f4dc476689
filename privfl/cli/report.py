"""``privfl report``: write the page of a run, or the comparison of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from privfl.cli import follow_up
from privfl.cli.arguments import AsJson
from privfl.cli.console import print_json
from privfl.running.run_folder import RunFolder

EXAMPLE: Final = "privfl report runs/quickstart runs/no-privacy --out comparison.html"


def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that `privfl run` made.")],
    out_file: Annotated[Path | None, typer.Option("--out", help="The page's file.")] = None,
    papers: Annotated[bool, typer.Option("--papers", help="Also write figures as PDF and PNG, and tables.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the page of a run, or the comparison of several."""
    folders = [RunFolder.open(path) for path in run_dirs]
    if as_json:
        print_json([_records(folder) for folder in folders])
        return
    follow_up.write_page(folders, out_file, papers=papers)


def _records(folder: RunFolder) -> dict[str, Any]:
    """The result and the findings of a run, as its folder has them."""
    return {
        "run": str(folder.path),
        "result": folder.result.model_dump(mode="json"),
        "findings": [finding.model_dump(mode="json") for finding in folder.findings],
    }
