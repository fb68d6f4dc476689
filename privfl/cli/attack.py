"""``privfl attack``: attack a finished run."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from privfl.cli import follow_up
from privfl.cli.arguments import Run
from privfl.cli.console import out
from privfl.running.run_folder import RunFolder

EXAMPLE: Final = "privfl attack runs/quickstart membership/rmia attacks.shadow_models=8"


def attack(
    run_dir: Run,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]|[KEY=VALUE]",
            help="For example membership/lira, or a dotted path; or attacks.shadow_models=8, which keeps those that are there.",
        ),
    ] = None,
) -> None:
    """Attack a finished run, with the attacks of its configuration or with those named, and write the page again."""
    from privfl.report import attacks_tables

    folder = RunFolder.open(run_dir)
    follow_up.attack(folder, [word for word in words or () if "=" not in word], [word for word in words or () if "=" in word])
    for table in attacks_tables(folder):
        out.print(table)
    follow_up.write_page([folder], None)
