"""The command line: parse, call, and tell an error in one line.

Exit codes: 0 done, 1 an error that is not the user's, 2 the user's mistake, 130 interrupted (the run can be resumed).
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import metadata
from typing import Annotated, NoReturn

import typer

from privfl import own_code
from privfl.cli import (
    account,
    attack,
    audit,
    console,
    data,
    doctor,
    export,
    frontier,
    init,
    interruption,
    report,
    reproduce,
    run,
    sweep,
    track,
)
from privfl.cli.mistakes import OneLineGroup, end_with
from privfl.errors import PrivflError

app = typer.Typer(
    cls=OneLineGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        console.out.print(f"privfl {metadata.version('privfl')}", highlight=False)
        raise typer.Exit


@app.callback()
def _privfl(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Federated learning with the privacy measured beside the accuracy."""


app.command(epilog=f"Example: {run.EXAMPLE}")(run.run)
app.command(epilog=f"Example: {init.EXAMPLE}")(init.init)
app.command(epilog=f"Example: {sweep.EXAMPLE}")(sweep.sweep)
app.command(epilog=f"Example: {frontier.EXAMPLE}")(frontier.frontier)
app.command(epilog=f"Example: {reproduce.EXAMPLE}")(reproduce.reproduce)
app.command(epilog=f"Example: {attack.EXAMPLE}")(attack.attack)
app.command(epilog=f"Example: {audit.EXAMPLE}")(audit.audit)
app.command(epilog=f"Example: {report.EXAMPLE}")(report.report)
app.command(epilog=f"Example: {track.EXAMPLE}")(track.track)
app.command(epilog=f"Example: {export.EXAMPLE}")(export.export)
app.command(epilog=f"Example: {account.EXAMPLE}")(account.account)
app.command(epilog=f"Example: {doctor.EXAMPLE}")(doctor.doctor)
app.add_typer(data.app, name="data")


def main() -> NoReturn:
    """The console script."""
    _look_here()
    try:
        app()
    except PrivflError as error:
        end_with(error, error)
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and end.code != interruption.EXIT_CODE:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Another Ctrl-C has nothing left to stop.
        # Not by way of rich, which would print its unfinished line again.
        sys.stderr.write(f"privfl: interrupted; what is finished is kept: {interruption.way_on.get()}\n")
        sys.exit(interruption.EXIT_CODE)
    except Exception as error:
        own = own_code.told(error)
        if own is None:
            raise
        end_with(own, error)
    raise AssertionError("typer ends every command by leaving the program")


def _look_here() -> None:
    """Find modules of the user's own in the current folder, as ``python -m privfl`` does."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
