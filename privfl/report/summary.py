"""The short table that a run ends with."""

from __future__ import annotations

from rich import box
from rich.table import Table

from privfl.errors import RunFolderError
from privfl.report.headline import LOW_FPR, headlines, warnings
from privfl.report.recorded import Run, found_by, rate_at
from privfl.report.secure import certified, risks
from privfl.report.wording import attack_name, percent, percent_range
from privfl.running.run_folder import RunFolder


def summary_table(folder: RunFolder) -> Table:
    """The page's headline row as a table, with whatever must be known first, and where the page is.

    Raises:
        RunFolderError: the run has not finished, or a record of it is damaged.
    """
    run = Run.read(folder)
    table = Table(title=run.title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="dim", max_width=24)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for headline in headlines(run):
        table.add_row(headline.label, headline.value, headline.terms)
    secure = [record.secure for record in run.rounds if record.secure and record.secure.clients]
    if secure:
        risk = "; ".join(f"{name}: {said}" for name, said in risks(secure))
        table.add_row("Secure aggregation", secure[-1].adversary.replace("_", "-"), f"{certified(secure[-1])}; {risk}")
    for warning in warnings(run):
        table.add_row("Note", "", warning, style="yellow")
    page = folder.path / "report.html"
    if page.is_file():
        table.add_row("Page", "", str(page))
    return table


def attacks_table(folder: RunFolder) -> Table:
    """What each variant of each attack found, for a terminal.

    Raises:
        RunFolderError: no attack was run, or a record of it is damaged.
    """
    run = Run.read(folder)
    if run.leakage is None:
        raise RunFolderError(f"{folder.path}: no attack was run; type `privfl attack {folder.path}`")
    table = Table("attack", "AUC", "", "TPR at 1 % FPR", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for attack in run.leakage.attacks:
        at = rate_at(attack.rates, LOW_FPR)
        found = found_by(attack, at, run.leakage) if at else None
        tpr = found.figure.tpr if found else None
        half = " (best; of the half that did not choose it)" if found and found.of_all else ""
        table.add_row(
            attack_name(attack.attack, attack.variant),
            f"{attack.auc.value:.3f}",
            f"{attack.auc.low:.3f} – {attack.auc.high:.3f}",
            "not resolvable" if tpr is None else percent(tpr.value, 2),
            ("" if tpr is None else percent_range(tpr, 2)) + half,
        )
    return table
