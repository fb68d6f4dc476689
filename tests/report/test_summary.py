"""The table at the end of a run."""

from __future__ import annotations

import io
from pathlib import Path

from made_runs import Made, make
from rich.console import Console

from privfl.report import summary_table
from privfl.running.run_folder import RunFolder


def printed(folder: RunFolder, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary_table(folder))
    return console.export_text().replace("\u202f", " ").replace("\u00a0", " ")


def test_summary_holds_every_headline(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", Made())
    (folder.path / "report.html").touch()
    text = printed(folder, 200)
    accuracy = folder.result.evaluation.headline
    for figure in (
        f"{accuracy.value * 100:.1f} %",
        f"{accuracy.low * 100:.1f} – {accuracy.high * 100:.1f} %",
        "ε = 7.99",
        "per example, at δ = 10⁻⁵, against external, client and server",
        "ε ≥ 0.21",
        str(folder.path / "report.html"),
    ):
        assert figure in text


def test_summary_without_promise_or_attack(tmp_path: Path) -> None:
    made = Made(overrides=["privacy.kind=none", "aggregator.kind=mean"], attacked=False, stopped="the budget was spent", done=3)
    text = " ".join(printed(make(tmp_path / "run", made), 80).split())
    for phrase in ("no promise", "not measured", "off", "after 3 rounds of 20"):
        assert phrase in text
    assert "Page" not in text
