"""``privfl attack``: attack a finished run, or a model that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from privfl.adversaries import ADVERSARIES, Adversary
from privfl.cli import follow_up
from privfl.cli.arguments import Quiet
from privfl.cli.console import hush, notes, out
from privfl.errors import ConfigError
from privfl.running.attacking import Offer, chosen, offers
from privfl.running.run_folder import RunFolder
from privfl.shelves import nearest

EXAMPLE: Final = "privfl attack runs/quickstart membership/rmia attacks.shadow_models=8"


def attack(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [NAME]|[KEY=VALUE]",
            help="A folder that `privfl run` made; then for example membership/lira, a dotted path, or all; or "
            "attacks.shadow_models=8, which keeps those that are there.",
        ),
    ] = None,
    adversary: Annotated[
        str | None,
        typer.Option(
            "--adversary", metavar="NAME", help=f"All attacks of one adversary: {', '.join(ADVERSARIES)}; in place of names."
        ),
    ] = None,
    allowed: Annotated[bool, typer.Option("--allowed", help="Leave out named attacks that the run does not allow.")] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Attack nothing: list the attacks, and with RUN those that it allows.")
    ] = False,
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
    quiet: Quiet = False,
) -> None:
    """Attack a finished run, with the attacks of its configuration or with those named, and write the page again.

    With all, or --adversary: every attack that the run allows; the others are listed with the reason.

    With --scores or --predictions: judge a model that was trained elsewhere. docs/attacks.md says which arrays the file needs.
    """
    hush(quiet)
    given = list(words or ())
    who = None if adversary is None else _adversary(adversary)
    if show_list:
        _list(given, who)
        return
    if scores is not None or predictions is not None:
        _outside(given, scores, predictions, out_dir)
        return
    if out_dir is not None:
        raise ConfigError(f"--out {out_dir}: goes with --scores or --predictions; the page of a run is in its folder")
    if not given:
        raise ConfigError("nothing to attack: give the folder of a run, or --scores FILE, or --predictions FILE")
    from privfl.report import attacks_tables

    folder = RunFolder.open(Path(given[0]))
    names, settings = [word for word in given[1:] if "=" not in word], [word for word in given[1:] if "=" in word]
    names, left_out = chosen(folder, names, who, settings, allowed)
    _say_refused(left_out, notes)
    follow_up.attack(folder, names, settings)
    for table in attacks_tables(folder):
        out.print(table)
    follow_up.write_page([folder], None)


def _adversary(name: str) -> Adversary:
    for known in ADVERSARIES:
        if known == name:
            return known
    raise ConfigError(f"--adversary {nearest(name, ADVERSARIES)}")


def _list(given: Sequence[str], adversary: Adversary | None) -> None:
    """Print the attacks by adversary, and with a run whether it allows each."""
    settings = [word for word in given if "=" in word]
    runs = [word for word in given if "=" not in word]
    if len(runs) > 1:
        raise ConfigError(f"{runs[1]!r}: --list takes one run at most; name it alone")
    run = RunFolder.open(Path(runs[0])) if runs else None
    found = offers(run, adversary=adversary, settings=settings)
    for who in ADVERSARIES:
        theirs = [offer for offer in found if offer.adversary == who]
        for threat in dict.fromkeys(offer.threat for offer in theirs):
            out.print(f"[bold]{who}[/bold]: {threat}", highlight=False)
            out.print(_table([offer for offer in theirs if offer.threat == threat], asked=run is not None))
    _say_refused(found, out)


def _say_refused(found: Sequence[Offer], console: Console) -> None:
    """Print the attacks that are left out, those with the same reason together."""
    reasons: dict[str, list[Offer]] = {}
    for offer in found:
        if offer.refusal is not None:
            reason = offer.refusal.replace(f"'{offer.name}'", "'NAME'").replace(f'"{offer.name}"', '"NAME"')
            reasons.setdefault(reason, []).append(offer)
    for reason, alike in reasons.items():
        said = alike[0].refusal if len(alike) == 1 else reason.replace("'NAME'", "each of them")
        names = ", ".join(offer.name for offer in alike)
        console.print(f"left out: {names}: {said}", soft_wrap=True, highlight=False, markup=False)


def _table(found: Sequence[Offer], *, asked: bool) -> Table:
    table = Table("attack", "needs", "cost", *(["this run"] if asked else []), box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for offer in found:
        verdict = ["allows it" if offer.refusal is None else "left out"] if asked else []
        table.add_row(offer.name, offer.needs, offer.cost, *verdict)
    return table


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
