"""The short table that a run ends with."""

from __future__ import annotations

from rich import box
from rich.table import Table

from privfl.report.headline import headlines, warnings
from privfl.report.recorded import Run
from privfl.runs import RunFolder


def summary_table(folder: RunFolder) -> Table:
    """The page's headline row as a table, with whatever must be known first, and where the page is.

    Raises:
        RunFolderError: the run has not finished, or a record of it is damaged.
    """
    run = Run.read(folder)
    table = Table(title=run.config.name, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="dim", max_width=24)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for headline in headlines(run):
        table.add_row(headline.label, headline.value, headline.terms)
    for warning in warnings(run):
        table.add_row("Note", "", warning, style="yellow")
    page = folder.path / "report.html"
    if page.is_file():
        table.add_row("Page", "", str(page))
    return table
