"""The arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file, for example one of paper_configs/.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that replace the file's; KEY= takes one away.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table, and write no page.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Print errors, the final table and the place of the page, and nothing else.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `privfl run` made.")]
