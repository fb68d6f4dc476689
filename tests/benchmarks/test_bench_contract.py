"""Every benchmark answers a question, and takes ``--quick`` and ``--json FILE``."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
FILES = sorted(FOLDER.glob("bench_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_answers_and_takes_the_two_flags(path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "--quick" in shown
    assert "--json FILE" in shown
    assert "?" in path.read_text(encoding="utf-8").split('"""')[1]


def test_local_training_writes_flat_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    module = runpy.run_path(str(FOLDER / "bench_local_training.py"))
    for name in ("mlp", "cnn"):
        del module["MODELS"][name]
    threads = torch.get_num_threads()
    try:
        assert module["main"](["--quick", "--json", str(tmp_path / "figures.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    flat = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, float) for value in flat.values())
