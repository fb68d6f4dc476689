"""``privfl data``: list the data sets, describe one, show a partition of it, fetch it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from privfl.cli import progress
from privfl.cli.arguments import AsJson, Overrides
from privfl.cli.console import err, out, print_json
from privfl.loading import load_data

if TYPE_CHECKING:
    from privfl.data.federated import LoadedData

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


@app.command("info", epilog="Example: privfl data info fashion_mnist")
def info(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")],
    as_json: AsJson = False,
) -> None:
    """Describe one data set: its sizes, classes, licence, place, origin and settings. If it is here, it is read and checked."""
    from privfl.data.datasets import _fetch
    from privfl.shelves import SHELVES

    entry, item = _fetch.entry(name), SHELVES["data"].find(name)
    about, loaded = entry.about, _fetch.dataset(name).load() if entry.present else None
    form = (inspect.getdoc(item) or "").partition("\n\n")[0].replace("\n", " ")
    fetch_it = f"privfl data fetch {name}" if entry.sources and not entry.own else None
    settings = {
        key: "must be given" if field.is_required() else field.get_default(call_default_factory=True)
        for key, field in item.model_fields.items()
        if key != "kind"
    }
    rows: dict[str, Any] = {
        "name": name,
        "title": about.title,
        "inputs_and_labels": form,
        "training_examples": about.train if loaded is None else len(loaded.train),
        "test_examples": about.test if loaded is None else len(loaded.test),
        "classes": about.classes if loaded is None else len(loaded.classes),
        **_read_from(loaded),
        "licence": about.licence,
        "homepage": about.homepage or None,
        "here": None if entry.own else entry.present,
        "place": str(entry.place)
        if entry.place
        else next(iter(entry.sources), "comes with a library")
        if entry.present
        else None,
        "fetch": None if entry.present else fetch_it,
        "sources": list(entry.sources) if not entry.own else [],
        "example": entry.sources[0] if entry.own else None,
        "settings": settings,
    }
    if as_json:
        print_json(rows)
        return
    table = Table(title=f"data set {name}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in rows.items():
        if value not in (None, []) and key != "name":
            table.add_row(key.replace("_", " "), escape(_in_words(value)))
    out.print(table)


def _read_from(loaded: LoadedData | None) -> dict[str, Any]:
    """The particulars that only the data themselves tell."""
    if loaded is None:
        return {}
    return {
        "shape": list(loaded.train.x.shape[1:]),
        "class_names": list(loaded.classes),
        "clients": list(loaded.natural_names),
        "provenance": loaded.provenance,
    }


def _in_words(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case list() | tuple():
            shown = [str(one) for one in value[:12]]
            return ", ".join(shown) + (f" and {len(value) - 12:,} more" if len(value) > 12 else "")
        case dict():
            return "\n".join(f"data.{key}: {_in_words(one) or 'empty'}" for key, one in value.items())
        case None:
            return "not set"
    return str(value)


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
    place = fetched.place or "a library of this environment, or drawn by a rule"
    out.print(
        f"{name}: is here already, in {place}" if fetched.source is None else f"{name}: got from {fetched.source} into {place}"
    )
