"""``privfl account``: price a configuration before it is trained, or several runs together."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from privfl.cli.arguments import AsJson
from privfl.cli.console import err, out, print_json
from privfl.errors import ConfigError
from privfl.loading import load
from privfl.running.run_folder import RunFolder
from privfl.storage import write_atomic

EXAMPLE: Final = "privfl account paper_configs/quickstart.toml privacy.target_epsilon=2"


def account(
    what: Annotated[Path, typer.Argument(metavar="CONFIG|RUN", help="A TOML file, or the folder of a run.")],
    rest: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]|[RUN]", help="Settings that replace the file's, or more runs.")
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Also draw ε over the rounds.")] = False,
    curve_file: Annotated[Path | None, typer.Option("--out", help="Where the curve is written too, as SVG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Price a configuration in ε, by each accountant, without training; or price several runs together."""
    from privfl.report import epsilon_curve
    from privfl.running import pricing

    if what.is_dir():
        if curve or curve_file:
            raise ConfigError(f"--curve and --out draw what a configuration will cost; give {what / 'config.toml'}, or neither")
        _account_runs([what, *map(Path, rest or ())], as_json)
        return
    with err.status("reading the data, pricing the plan"):
        priced = pricing.account(load(what, *rest or ()))
        spent = pricing.epsilon_by_round(priced.experiment) if curve or curve_file else []
    if as_json:
        print_json(priced.as_dict())
    else:
        table = Table(title="Price of the run", title_justify="left", show_header=False)
        for name, value in priced.rows():
            table.add_row(name, value)
        out.print(table)
    if curve and not as_json:
        out.print(epsilon_curve.curve_text(spent), highlight=False)
    if curve_file is not None:
        write_atomic(curve_file, epsilon_curve.drawing(spent).standalone_svg().encode())
        err.print(f"curve: {curve_file}", soft_wrap=True, highlight=False)


def _account_runs(paths: list[Path], as_json: bool) -> None:
    from privfl.privacy.words import RELATIONS
    from privfl.running import composing, pricing

    rows = composing.compose([RunFolder.open(path) for path in paths])
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table("run", "ε by itself", "ε with those above", title="Price of these runs together", title_justify="left")
    for row in rows:
        table.add_row(row.name, pricing.format_epsilon(row.alone), pricing.format_epsilon(row.together))
    out.print(table)
    out.print(f"per {rows[0].unit}, {RELATIONS[rows[0].relation]}, δ = {rows[0].delta:g}", highlight=False)
