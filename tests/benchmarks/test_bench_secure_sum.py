"""The benchmark runs at tiny sizes, and both of its outputs say something."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = [(64, 3), (100, 4)]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.syspath_prepend(FOLDER)
    found: Callable[..., int] = runpy.run_path(str(FOLDER / "bench_secure_sum.py"))["main"]
    return found


def test_json_is_one_flat_object_of_numbers(main: Callable[..., int], tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert main(["--quick", "--json", str(path)], TINY) == 0
    flat = json.loads(path.read_text())
    assert all(isinstance(value, float) for value in flat.values())
    assert flat["d64_k3_client_ms"] > 0
    # An advert, shares for two others, header and session of the vector, a signature, three revealed shares; over 4 · (64 + 1)
    # plain bytes.
    assert flat["d64_k3_upload_expansion"] == pytest.approx(1 + (148 + (120 + 2 * 124) + 52 + 116 + (56 + 3 * 41)) / 260)


def test_without_json_a_table_is_printed(main: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"], TINY) == 0
    printed = capsys.readouterr().out
    assert "D = 64, K = 3" in printed
    assert "whole round per client" in printed
