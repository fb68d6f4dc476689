"""``privfl attack``: attack a finished run, or a model that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli import follow_up
from privfl.cli.console import out
from privfl.errors import ConfigError
from privfl.running.run_folder import RunFolder

EXAMPLE: Final = "privfl attack runs/quickstart membership/rmia attacks.shadow_models=8"


def attack(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [NAME]|[KEY=VALUE]",
            help="A folder that `privfl run` made; then for example membership/lira, or a dotted path; or "
            "attacks.shadow_models=8, which keeps those that are there.",
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", metavar="FILE", help="In place of RUN: scores and membership, .npz or Parquet.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", metavar="FILE", help="In place of RUN: a model's outputs and membership, .npz or Parquet."
        ),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="With --scores or --predictions: where the page goes.")
    ] = None,
) -> None:
    """Attack a finished run, with the attacks of its configuration or with those named, and write the page again.

    With --scores or --predictions: judge a model that was trained elsewhere. docs/attacks.md says which arrays the file needs.
    """
    given = list(words or ())
    if scores is not None or predictions is not None:
        _outside(given, scores, predictions, out_dir)
        return
    if out_dir is not None:
        raise ConfigError(f"--out {out_dir}: goes with --scores or --predictions; the page of a run is in its folder")
    if not given:
        raise ConfigError("nothing to attack: give the folder of a run, or --scores FILE, or --predictions FILE")
    from privfl.report import attacks_tables

    folder = RunFolder.open(Path(given[0]))
    follow_up.attack(folder, [word for word in given[1:] if "=" not in word], [word for word in given[1:] if "=" in word])
    for table in attacks_tables(folder):
        out.print(table)
    follow_up.write_page([folder], None)


def _outside(names: list[str], scores: Path | None, predictions: Path | None, out_dir: Path | None) -> None:
    from privfl.api.outside import audit
    from privfl.report import findings_tables

    if scores is not None and predictions is not None:
        raise ConfigError("--scores and --predictions: give one of them; each is judged for itself")
    file = scores if scores is not None else predictions
    assert file is not None
    target = out_dir or Path("runs") / file.stem
    found = audit(file, *names, kind="scores" if scores is not None else "predictions", out=target)
    for table in findings_tables([found]):
        out.print(table)
    best = found.best
    bound = (
        f"measured ε ≥ {best.epsilon_lower:.2f} with {best.level:.0%} confidence, if membership was a fair coin "
        f"(the most that so many guesses could show: {best.epsilon_ceiling:.2f})"
    )
    out.print(bound, soft_wrap=True, highlight=False)
    out.print(f"page: {(target / 'report.html').resolve()}", soft_wrap=True, highlight=False)
