"""``privfl audit``: train a configuration with canaries, and hold what they give away against the promise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli import follow_up
from privfl.cli.arguments import Config, Overrides, Quiet
from privfl.cli.console import hush, out
from privfl.cli.training import train
from privfl.loading import load

EXAMPLE: Final = "privfl audit paper_configs/quickstart.toml --canaries 500 --out runs/audit"


def audit(
    config: Config,
    overrides: Overrides = None,
    canaries: Annotated[
        int | None, typer.Option("--canaries", metavar="M", min=10, help="How many are planted; 1000 unless it is given.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="gradient, client, canife, crafted, mislabelled, random, blank; else the strongest that the plan allows.",
        ),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="The run folder; runs/NAME-audit unless it is given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in the folder stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train with canaries planted, each in or out by a fair coin, and say what they refute of the promise.

    Lower bounds on ε hold for any mechanism. Bounds on the noise take the rest of the mechanism to be as configured. Estimates
    are no bounds. docs/auditing.md says how to read them.
    """
    from privfl.report import attacks_tables
    from privfl.running.auditing import audited

    hush(quiet)
    settings = audited(load(config, *overrides or ()), canaries, kind)

    def command(path: Path) -> list[str]:
        words = ["audit", str(config), *(overrides or ()), "--out", str(path), "--resume"]
        words += [] if canaries is None else ["--canaries", str(canaries)]
        return words + ([] if kind is None else ["--kind", kind])

    folder = train(settings, command, out_dir, resume=resume, overwrite=overwrite)
    if folder is None:
        return
    if not folder.findings:
        follow_up.attack(folder, (), ())
    for table in attacks_tables(folder):
        out.print(table)
    follow_up.write_page([folder], None)
