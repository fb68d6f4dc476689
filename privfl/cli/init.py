"""``privfl init``: write a first configuration for one's own data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli.console import out
from privfl.errors import ConfigError

EXAMPLE: Final = "privfl init --data patients.csv --label died --client hospital --out my.toml"


def init(
    data: Annotated[
        Path | None, typer.Option("--data", help="A table (.csv, .parquet), arrays (.npz), or a folder of images.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="Of a table: the column to be learned.")
    ] = None,
    client: Annotated[
        str | None, typer.Option("--client", metavar="COLUMN", help="Of a table: the column that names each row's client.")
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(
            "--clients", metavar="N", min=1, help="Among how many clients the examples are dealt, if the data name none."
        ),
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The TOML file; NAME.toml, after the data, unless given.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a commented configuration for your own data, which runs as it is. It asks for all that the options leave open."""
    from privfl.running import beginning

    if client is not None and clients is not None:
        raise ConfigError(f"--clients {clients}: the column {client!r} names the clients; give one of --client and --clients")
    asking = sys.stdin.isatty()
    if data is None:
        if not asking:
            raise ConfigError("--data: is missing; name a table (.csv, .parquet), arrays (.npz), or a folder of images")
        data = Path(typer.prompt("File or folder of your data (.csv, .parquet, .npz, or a folder of images)"))
    name = beginning.name_for(data)
    target = out_file or Path(f"{name}.toml")
    beginning.require_free(target, overwrite)
    if asking:
        label, client, clients = _asked(data, label, client, clients)
    settings = beginning.settings_for(data, label, client)
    beginning.write(target, settings, clients, name=name)
    if dropped := settings.get("drop"):
        out.print(
            f"left out: {', '.join(dropped)}: names, dates or numbers of single rows; `drop` in the file says so",
            soft_wrap=True,
            highlight=False,
        )
    out.print(
        f"written: {target}; see its price with `privfl account {target}`, then `privfl run {target}`",
        soft_wrap=True,
        highlight=False,
    )


def _asked(data: Path, label: str | None, client: str | None, clients: int | None) -> tuple[str | None, str | None, int | None]:
    """The label and the clients, asked for unless they are given."""
    from privfl.running import beginning

    columns = beginning.columns(data)
    if columns is not None and label is None:
        label = typer.prompt(f"Column to be learned ({', '.join(columns)})")
    if client is None and clients is None:
        if columns is None:
            answer = typer.prompt("Number of clients, or Enter for those that the data name", default="")
        else:
            answer = typer.prompt(
                "Column that names each row's client, or the number of clients", default=str(beginning.CLIENTS)
            )
        if answer.isdecimal() and answer not in (columns or ()):
            return label, None, int(answer)
        client = answer or None
    return label, client, clients
