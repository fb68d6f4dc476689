"""The benchmark of noise runs at tiny sizes, and both of its outputs say something."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_json_is_flat_and_a_table_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    main = runpy.run_path(str(FOLDER / "bench_secure_noise.py"))["main"]
    path = tmp_path / "figures.json"
    assert main(["--quick", "--json", str(path)], [64]) == 0
    assert main(["--quick"], [64]) == 0
    flat = json.loads(path.read_text())
    assert all(isinstance(value, float) for value in flat.values())
    assert flat["d64_secure_ms"] > 0
    assert "secure / normal_ time" in capsys.readouterr().out
