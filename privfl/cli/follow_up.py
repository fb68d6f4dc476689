"""The steps that follow a run: its attacks and its page. Several commands end with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from privfl.cli import progress
from privfl.cli.console import notes, out
from privfl.running.run_folder import RunFolder


def attack(folder: RunFolder, names: Sequence[str], settings: Sequence[str]) -> None:
    """Attack a run with the attacks named, or else with those of its configuration, and follow its shadow models."""
    from privfl.running.attacking import attack as attack_run

    with progress.shadow_models(notes) as observer:
        attack_run(folder, names, settings=settings, observer=observer)


def write_page(folders: list[RunFolder], out_file: Path | None, *, papers: bool = False) -> None:
    """Write the page of a run or the comparison of several, print a summary of each and the page's place."""
    from privfl.report import summary_table, write_report

    target = out_file or (folders[0].path / "report.html" if len(folders) == 1 else Path("comparison.html"))
    page = write_report(folders, target, papers=papers)
    for folder in folders:
        out.print(summary_table(folder))
    out.print(f"page: {page.resolve()}", soft_wrap=True, highlight=False)
