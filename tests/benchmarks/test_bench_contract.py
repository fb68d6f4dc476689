"""Every benchmark answers a question, and takes ``--quick`` and ``--json FILE``."""

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
FILES = sorted(FOLDER.glob("bench_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_answers_and_takes_the_two_flags(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(path), run_name="__main__")
    shown = capsys.readouterr().out
    assert "--quick" in shown
    assert "--json FILE" in shown
    assert "?" in path.read_text(encoding="utf-8").split('"""')[1]


def test_local_training_writes_flat_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    module = runpy.run_path(str(FOLDER / "bench_local_training.py"))
    for name in ("mlp", "cnn"):
        del module["MODELS"][name]
    assert module["main"](["--quick", "--json", str(tmp_path / "figures.json")]) == 0
    flat = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, float) for value in flat.values())
