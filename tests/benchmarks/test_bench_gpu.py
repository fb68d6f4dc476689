"""The benchmark of GPUs, tried on the CPU: its figures are those of what it says."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from privfl.learning.training._rules.products import square_lengths

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


def test_its_traffic_is_what_kernels_read_and_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4,000 bytes and 40; what Python writes into itself and what is copied into another type are seen."""
    monkeypatch.syspath_prepend(FOLDER)
    module = runpy.run_path(str(FOLDER / "bench_gpu.py"))
    x, y, whole = torch.zeros(1000), torch.zeros(10), torch.zeros(10, 100)

    def traffic(run: Callable[[], object]) -> tuple[int, int]:
        counted = module["Traffic"](torch.device("cpu"))
        with counted:
            run()
        return counted.kernels, counted.moved

    def into_a_slice() -> None:
        x[:10] += y

    assert traffic(lambda: x + x) == (1, 4000 + 4000)
    assert traffic(lambda: x.add_(1.0)) == (1, 4000 + 4000)
    assert traffic(lambda: x.zero_()) == (1, 4000)
    assert traffic(lambda: y.copy_(x[:10])) == (1, 40 + 40)
    assert traffic(lambda: torch.mul(x, 2.0, out=torch.empty(1000))) == (1, 4000 + 4000)
    assert traffic(lambda: whole.view(1000)) == (0, 0)
    assert traffic(lambda: x[:10].add_(y)) == (1, 3 * 40)
    assert traffic(into_a_slice) == (2, 3 * 40 + 2 * 40)
    assert traffic(lambda: x.sum()) == (1, 4000 + 4)
    # Read, written as doubles, and read again.
    assert traffic(lambda: torch.linalg.vector_norm(x, dtype=torch.float64)) == (1, 4000 + 8000 + 8000 + 8)


def test_norms_of_gradients_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing as large is written: 10 gradients of 8,000,000 bytes, of which blocks of 1,024 are added up."""
    monkeypatch.syspath_prepend(FOLDER)
    counted = runpy.run_path(str(FOLDER / "bench_gpu.py"))["Traffic"](torch.device("cpu"))
    gradients = torch.zeros(10, 200_000)
    with counted:
        square_lengths(gradients)
    assert gradients.nbytes <= counted.moved < 1.02 * gradients.nbytes
