"""The benchmark of GPUs, tried on the CPU: its figures are those of what it says."""

import json
import runpy
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_its_figures_hold_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    module = runpy.run_path(str(FOLDER / "bench_gpu.py"))
    module["main"].__globals__["CLIENTS"] = 2
    assert module["main"](["--quick", "--json", str(tmp_path / "figures.json")], "cpu") == 0
    flat = json.loads((tmp_path / "figures.json").read_text())
    # The device is the CPU itself.
    assert flat["gpu_difference_from_cpu.cnn"] == 0.0
    assert flat["gpu_kernels_a_step.cnn.fused"] > flat["gpu_kernels_a_step.cnn.fused_nonprivate"] > 50
    shares = [value for name, value in flat.items() if "_share_of_" in name and "throughput" not in name]
    assert len(shares) == 6
    assert all(0 < share < 3 for share in shares)


def test_the_operations_are_those_of_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear layer of 784 by 10: 2 · 7840 forward for each example, and as many for its weights."""
    monkeypatch.syspath_prepend(FOLDER)
    module = runpy.run_path(str(FOLDER / "bench_gpu.py"))
    assert module["needed_operations"](module["Work"]("logistic", 3, 32, 2)) == 2 * 2 * 7840 * 32 * 3 * 2


def test_without_a_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runpy.run_path(str(FOLDER / "bench_gpu.py"))["main"](["--quick"]) == 0
    assert "nothing was measured" in capsys.readouterr().out
