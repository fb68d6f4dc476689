"""``privfl data``: list the data sets, show a partition of one, fetch one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from privfl.cli import progress
from privfl.cli.arguments import Overrides
from privfl.cli.console import err, out
from privfl.loading import load_data

app = typer.Typer(
    help="The data sets: which there are, what a partition of one looks like, how to get one.", no_args_is_help=True
)


@app.command("list", epilog="Example: privfl data list")
def list_all() -> None:
    """List every data set, whether it is here, and its sources."""
    from privfl.data.datasets import _fetch

    table = Table("name", "here", "what it is", "licence", "where from")
    for entry in _fetch.inventory():
        here = "yours" if entry.own else "yes" if entry.present else "no"
        table.add_row(
            entry.name, here, entry.about.title, entry.about.licence, next(iter(entry.sources), "comes with a library")
        )
    out.print(table)


@app.command(
    "show", epilog="Example: privfl data show fashion_mnist clients=20 partition.kind=dirichlet partition.alpha=0.1 seed=1"
)
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")], overrides: Overrides = None) -> None:
    """Draw who has how much of which class, in a run of the same seed (0 unless seed=N is given)."""
    from privfl.data.datasets import Dataset
    from privfl.data.federated import FederatedData
    from privfl.report.partition_table import partition_table
    from privfl.seeding import Seed
    from privfl.tables import narrow

    settings = load_data(name, overrides or ())
    loaded = narrow(settings.data, Dataset).load()
    data = FederatedData.build(loaded, settings.data, Seed(settings.seed) / "data")
    out.print(data.provenance, style="dim")
    out.print(partition_table(data.counts(), data.counted, data.clients))


@app.command("fetch", epilog="Example: privfl data fetch fashion_mnist")
def fetch(name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")]) -> None:
    """Get a data set into the cache, from the first of its sources that gives it; checked against known hashes."""
    from privfl.data.datasets import _fetch

    _fetch.dataset(name)  # A wrong name is said before a bar is drawn.
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=err) as bar:
        fetched = _fetch.fetch(name, progress.FetchBar(bar))
    place = fetched.place or "a library of this environment"
    out.print(
        f"{name}: is here already, in {place}" if fetched.source is None else f"{name}: got from {fetched.source} into {place}"
    )
