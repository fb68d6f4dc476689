"""Peers get privfl's own problem, and a figure only if they learn as well. No peer needs to be installed."""

from __future__ import annotations

import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

FOLDER = Path(__file__).parents[2] / "benchmarks"
DIGITS = {"kind": "digits", "clients": 4, "partition": {"kind": "iid"}, "holdout": 1e-9}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(FOLDER)
    return runpy.run_path(str(FOLDER / "_peers.py"))


def loop(problem: Any, rounds: int) -> float:
    """FedAvg in ten lines."""
    model, generator = problem.model(), torch.Generator().manual_seed(0)
    for _ in range(rounds):
        start, after = {name: value.clone() for name, value in model.state_dict().items()}, []
        for x, y in problem.clients[: problem.cohort]:
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), lr=problem.config.training.lr)
            for batch in torch.split(torch.randperm(len(y), generator=generator), problem.config.training.batch_size):
                optimizer.zero_grad()
                cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            after.append({name: value.clone() for name, value in model.state_dict().items()})
        model.load_state_dict({name: torch.stack([one[name] for one in after]).mean(0) for name in start})
    return float(problem.accuracy(model))


def test_a_loop_over_the_problem_is_compared_and_learns_as_well(bench: dict[str, Any]) -> None:
    build = partial(bench["task"], data=DIGITS, cohort={"kind": "fixed", "size": 4})
    peer = SimpleNamespace(TASKS=("mlp",), run=loop)
    measured = bench["compare"]("mlp", 4, 1, {"loop": peer}, build)
    assert measured["privfl"].accuracy.median > 0.8
    assert measured["loop"].accuracy.median == pytest.approx(measured["privfl"].accuracy.median, abs=0.06)
    assert min(measured["loop"].seconds.values_R) > 0


def test_what_a_peer_spends_elsewhere_is_counted(bench: dict[str, Any]) -> None:
    def run(problem: Any, rounds: int) -> float:
        bench["ELSEWHERE"].append(1000.0 * rounds)
        return loop(problem, rounds)

    build = partial(bench["task"], data=DIGITS, cohort={"kind": "fixed", "size": 4})
    measured = bench["compare"]("mlp", 2, 1, {"far": SimpleNamespace(TASKS=("mlp",), run=run)}, build)
    assert 2000 < measured["far"].seconds.median < 2100
    assert measured["privfl"].seconds.median < 100


def test_who_learnt_something_else_has_no_figure(bench: dict[str, Any]) -> None:
    def run(seconds: float, accuracy: float) -> Any:
        return bench["Measured"](bench["Sample"](np.array([seconds])), bench["Sample"](np.array([accuracy])))

    measured = {"cnn": {"privfl": run(2.0, 0.80), "pfl": run(3.0, 0.81), "flower": run(1.0, 0.70)}}
    assert bench["ratios"](measured, whole=True) == {"pfl_over_privfl.cnn": 1.5}
    assert bench["ratios"](measured, whole=False)["flower_over_privfl.cnn"] == 0.5


def test_without_peers_there_is_nothing_to_compare(bench: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench["compare_all"].__globals__, "peers", dict)
    assert bench["compare_all"](quick=True) == ({}, {})


def test_a_private_problem_says_what_a_client_does(bench: dict[str, Any]) -> None:
    config = bench["task"](1, "mlp", private=True, data=DIGITS, cohort={"kind": "fixed", "size": 4})
    with bench["read_beforehand"](config):
        problem = bench["Problem"].of(config)
    assert sum(len(y) for _, y in problem.clients) + len(problem.test[1]) == 1797
    assert problem.local.steps == -(-max(len(y) for _, y in problem.clients) // 32)
    assert problem.local.expected_batch_size == pytest.approx(32)


@pytest.mark.parametrize("name", ["pfl", "flower", "flower_simulation", "fedjax"])
def test_an_absent_peer_is_left_out(bench: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = runpy.run_path(str(FOLDER / f"_peer_{name}.py"))
    assert set(module["TASKS"]) <= set(bench["TASKS"])
    for package in ("pfl", "flwr", "fedjax"):
        monkeypatch.setitem(sys.modules, package, None)
    assert module["installed"]() is False
