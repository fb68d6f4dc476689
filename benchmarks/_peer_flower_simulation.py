"""Flower as it is shipped, on the benchmark task: ``run_simulation`` and Ray; needs ``flwr[simulation]`` and ``psutil``.

A ServerApp and a ClientApp as its quickstart for PyTorch writes them: each client makes its model, loads its partition and
trains from a DataLoader; where it is private, by Opacus' PrivacyEngine. It runs in a process of its own, as its users start it.
What counts is the processor time of all its processes from the end of the first round, by when Ray has started and its workers
have imported everything, scaled up to all rounds.
Run as a script it is that process.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _peers import ELSEWHERE, Problem
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

TASKS = ("cnn", "mlp", "dp_cnn")
_SAID = "flower: "


def installed() -> bool:
    """Whether Flower, Ray and psutil can be found."""
    return all(importlib.util.find_spec(name) for name in ("flwr", "ray", "psutil"))


def run(problem: Problem, rounds: int) -> float:
    """Train from the beginning; returns the last accuracy on the test split."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for client, (x, y) in enumerate(problem.clients):
            # A slice would bring all that it is a slice of.
            torch.save((x.clone(), y.clone()), folder / f"{client}.pt")
        torch.save(problem, folder / "problem.pt")
        command = [sys.executable, __file__, name, str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line.removeprefix(_SAID) for line in done.stdout.splitlines() if line.startswith(_SAID)]
    if done.returncode or not said:
        raise RuntimeError(done.stderr.strip()[-1000:])
    found = json.loads(said[-1])
    ELSEWHERE.append(found["cpu_s"])
    return float(found["accuracy"])


def _train(problem: Problem, model: nn.Module, x: Tensor, y: Tensor) -> float:
    training, total = problem.config.training, 0.0
    loader: Any = DataLoader(TensorDataset(x, y), batch_size=training.batch_size, shuffle=True)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=training.lr)
    if problem.local is not None:
        from opacus import PrivacyEngine

        model, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=optimizer,
            data_loader=loader,
            noise_multiplier=problem.local.noise_multiplier,
            max_grad_norm=problem.local.max_grad_norm,
        )
    for _ in range(training.local_epochs or 0):
        for x_B, y_B in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(x_B), y_B)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
    return total


def _client_app(folder: Path) -> Any:
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def _(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        task = torch.load(folder / "task.pt", weights_only=False)
        task.start.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = torch.load(folder / f"{int(context.node_config['partition-id'])}.pt")
        loss = _train(task, task.start, x, y)
        content = RecordDict(
            {
                "arrays": ArrayRecord(task.start.state_dict()),
                "metrics": MetricRecord({"train_loss": loss, "num-examples": len(y)}),
            }
        )
        return Message(content=content, reply_to=message)

    return app


def _server_app(problem: Problem, rounds: int, report: Callable[[float, float], None]) -> Any:
    from flwr.app import ArrayRecord, MetricRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    app, scratch, begun = ServerApp(), problem.model(), list[float]()

    def evaluate(server_round: int, arrays: Any) -> Any:
        if server_round == 1:
            begun.append(_all_processes())
        if server_round == 0 or not problem.due(server_round, rounds):
            return None
        scratch.load_state_dict(arrays.to_torch_state_dict())
        accuracy = problem.accuracy(scratch)
        if server_round == rounds:
            report(accuracy, (_all_processes() - begun[0]) * rounds / max(rounds - 1, 1))
        return MetricRecord({"accuracy": accuracy})

    @app.main()  # type: ignore[untyped-decorator]
    def _(grid: Any, context: Any) -> None:  # noqa: ARG001
        torch.set_num_threads(1)
        clients = len(problem.clients)
        FedAvg(fraction_train=problem.cohort / clients, fraction_evaluate=0.0, min_available_nodes=clients).start(
            grid=grid, initial_arrays=ArrayRecord(problem.start.state_dict()), num_rounds=rounds, evaluate_fn=evaluate
        )

    return app


def _all_processes() -> float:
    """Seconds of processor time of this process and of all that descend from it."""
    import psutil

    total, here = 0.0, psutil.Process()
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def main(folder: Path, rounds: int) -> None:
    """Simulate, and print the accuracy and the seconds."""
    from dataclasses import replace

    from flwr.simulation import run_simulation

    problem: Problem = torch.load(folder / "problem.pt", weights_only=False)
    # What a client needs of the problem, besides its own data.
    nothing = (torch.empty(0), torch.empty(0))
    torch.save(replace(problem, clients=(), test=nothing), folder / "task.pt")

    def report(accuracy: float, cpu_s: float) -> None:
        print(_SAID + json.dumps({"accuracy": accuracy, "cpu_s": cpu_s}), flush=True)

    run_simulation(
        _server_app(problem, rounds, report),
        _client_app(folder),
        num_supernodes=len(problem.clients),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
