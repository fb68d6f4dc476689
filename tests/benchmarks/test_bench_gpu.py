"""The benchmark of GPUs, tried on the CPU, and with a card's events made up."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from privfl.learning.training._rules.products import square_lengths

FOLDER = Path(__file__).parents[2] / "benchmarks"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the benchmark."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return importlib.import_module


def test_all_parts(part: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    assert part("bench_gpu").main(["--device", "cpu", "--quick", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert (found["device"], found["seed"], found["left_out"]) == ("the CPU", 0, [])
    assert found["machine"]["packages"]["torch"] == torch.__version__
    figures = found["figures"]
    # The device is the CPU itself.
    assert figures["two private runs on the device, files that differ"] == {}
    assert figures["device and CPU without noise, files that differ"] == {}
    assert figures["cnn, 2 clients, difference from the CPU's updates"] == 0.0
    kernels = [figures[f"cnn, 2 clients, {way}: kernels a step"] for way in ("fused", "fused_nonprivate")]
    assert kernels[0] > kernels[1] > 50
    shares = [value for name, value in figures.items() if ": share of " in name]
    assert len(shares) == 6
    assert all(0 < share < 3 for share in shares)
    for way in ("plain", "fused_nonprivate", "fused", "opacus", "opacus_as_it_comes", "fused_tf32", "fused_bfloat16"):
        sample = figures[f"cnn, 2 clients, {way}, ms a round"]
        assert sample["median"] > 0
        assert sample["repeats"] >= 2
    for way in ("fused", "fused_nonprivate"):
        traced = figures[f"trace: cnn, {way}, 2 clients"]
        assert traced["kernels"] > 100
        assert traced["ms of the device at work"] > 0
    printed = capsys.readouterr().out
    assert "| opacus_as_it_comes | " in printed
    assert "| privfl/learning/training/" in printed


def test_no_part_is_begun_when_the_time_is_over(part: Callable[[str], Any], tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    assert part("bench_gpu").main(["--device", "cpu", "--quick", "--seconds", "0", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["figures"] == {}
    assert [name.split()[0] for name in found["left_out"]] == ["comparison", "throughput", "trace", "trace"]


def test_parts_by_name(part: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert part("bench_gpu").main(["trace", "--device", "cpu", "--quick", "--seconds", "0"]) == 0
    printed = capsys.readouterr().out
    assert "trace of cnn" in printed
    assert "throughput" not in printed
    with pytest.raises(SystemExit):
        part("bench_gpu").main(["speed", "--device", "cpu"])
    assert "no part 'speed'; there are compare, throughput, trace" in capsys.readouterr().err


def test_without_a_gpu_nothing_is_measured(
    part: Callable[[str], Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert part("bench_gpu").main(["--quick"]) == 0
    assert "nothing was measured" in capsys.readouterr().out


def test_differences_of_runs_are_found_and_measured(part: Callable[[str], Any], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, weight, loss in ((one, 1.0, 0.5), (other, 1.25, 0.4)):
        folder.mkdir()
        save_file({"w": np.array([weight, 0.0]), "same": np.ones(3)}, folder / "model.safetensors")
        (folder / "rounds.jsonl").write_text(json.dumps({"a": 1}) + "\n" + json.dumps({"a": 1, "b": [2, loss]}) + "\n")
        (folder / "timings.jsonl").write_text(folder.name)
        (folder / "card.json").write_text("{}")
    (one / "extra.json").write_text("{}")
    assert part("_gpu.compare").differences(one, other) == {
        "extra.json": "is in one run only",
        "model.safetensors": "0.2 (w)",
        "rounds.jsonl": "0.25 (1.b.1)",
    }
    (other / "rounds.jsonl").write_text("{}")
    assert part("_gpu.compare").differences(one, other)["rounds.jsonl"] == "not of the same form"


def on_a_card() -> list[dict[str, Any]]:
    """A line of privfl's that launches a kernel and a copy, a backward pass that launches another kernel, and a wait."""

    def event(cat: str, name: str, ts: float, dur: float, tid: int = 1, **args: object) -> dict[str, Any]:
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid, "args": args}

    return [
        event("python_function", "/x/privfl/privfl/learning/a.py(3): f", 0, 50),
        event("cpu_op", "aten::mm", 5, 20),
        event("cuda_runtime", "cudaLaunchKernel", 10, 2, correlation=1),
        event("cuda_runtime", "cudaMemcpyAsync", 30, 2, correlation=2),
        event("cuda_runtime", "cudaStreamSynchronize", 33, 9, correlation=3),
        event("cpu_op", "MmBackward0", 60, 20, tid=2),
        event("cpu_op", "aten::mm", 61, 10, tid=2),
        event("cuda_driver", "cuLaunchKernel", 62, 2, tid=2, correlation=4),
        event("kernel", "gemm", 20, 1000, tid=7, correlation=1),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 1020, 500, tid=7, correlation=2),
        event("kernel", "gemm", 1500, 1000, tid=8, correlation=4),
    ]


def test_a_trace_of_a_card_is_summed_up(part: Callable[[str], Any]) -> None:
    assert part("_gpu.trace").summary(on_a_card(), CUDA, 5.0) == {
        "kernels": 2,
        "launches": 3,
        "ms of the device at work": 2.48,  # of 2.5 the two streams share 0.02
        "share of the time that the device works": 2.48 / 5.0,
        "copies": {"Memcpy DtoH": 1},
        "fillings": 0,
        "waits": {"cudaStreamSynchronize": 1},
    }


def test_kernels_are_told_by_the_line_that_launched_them(part: Callable[[str], Any]) -> None:
    assert list(part("_gpu.trace").launched(on_a_card(), CUDA)) == [
        ("privfl/learning/a.py(3): f", 1000),
        ("privfl/learning/a.py(3): f", 500),
        ("without a line of privfl's: MmBackward0", 1000),
    ]


def test_the_operations_are_those_of_the_layers(part: Callable[[str], Any]) -> None:
    """A linear layer of 784 by 10: 2 · 7840 forward for each example, and as many for its weights."""
    ceilings = part("_gpu.ceilings")
    assert ceilings.needed_operations(ceilings.Work("logistic", 3, 32, 2)) == 2 * 2 * 7840 * 32 * 3 * 2


def test_its_traffic_is_what_kernels_read_and_write(part: Callable[[str], Any]) -> None:
    """Of 4,000 bytes and 40; what Python writes into itself and what is copied into another type are seen."""
    x, y, whole = torch.zeros(1000), torch.zeros(10), torch.zeros(10, 100)

    def traffic(run: Callable[[], object]) -> tuple[int, int]:
        counted = part("_gpu.ceilings").Traffic(CPU)
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


def test_norms_of_gradients_are_read_once(part: Callable[[str], Any]) -> None:
    """And nothing as large is written: 10 gradients of 8,000,000 bytes, of which blocks of 1,024 are added up."""
    counted = part("_gpu.ceilings").Traffic(CPU)
    gradients = torch.zeros(10, 200_000)
    with counted:
        square_lengths(gradients)
    assert gradients.nbytes <= counted.moved < 1.02 * gradients.nbytes
