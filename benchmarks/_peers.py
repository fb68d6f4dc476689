"""privfl and its peers on the benchmark task, side by side.

Everybody gets the same data in memory, dealt to the clients in the same way, the same architecture with the same initial
weights, and the same rounds, batches, learning rate and evaluations of the test split: a run is compared only if it learns
as well as privfl's. What counts is the processor time of the whole run, from these to the last accuracy, without imports and
without reading data: that of the process, all of its threads included. One peer, Flower as it is shipped, runs in processes of
its own and says what they took.

privfl runs as ``privfl run`` does it, and writes its run folder. The peers write nothing, and do less besides: privfl deals
and hashes the data within its time, and measures accuracy on members too. That is a fixed second, so that the two rounds of
``--quick`` say little: of whole runs only the twenty rounds count.
"""

from __future__ import annotations

import copy
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import torch
from _harness import Figures, Sample, interleaved, print_table
from _task import task
from torch import Tensor, nn

from privfl.config import ExperimentConfig
from privfl.data.datasets import Dataset
from privfl.data.federated import LoadedData
from privfl.learning.models import Model
from privfl.learning.models._build import built, few
from privfl.privacy.events import LocalTraining
from privfl.privacy.plans.example import ExamplePlan
from privfl.running import recording
from privfl.running.assembling import assemble
from privfl.running.experiment import Experiment
from privfl.tables import narrow

EVALUATION_BATCH = 1000
WITHIN = 0.015
"""Two runs did the same if their accuracies differ by at most so much."""

TASKS = ("cnn", "mlp", "dp_cnn")

ELSEWHERE: list[float] = []
"""Seconds of processor time that peers spent in other processes than this one."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What everybody is given.

    Args:
        config: the task.
        start: a model of the architecture, at the initial weights; to be copied.
        clients: each client's examples and labels.
        test: the central test split.
        local: what a client does in a round, where it is private.
    """

    config: ExperimentConfig
    start: nn.Module
    clients: tuple[tuple[Tensor, Tensor], ...]
    test: tuple[Tensor, Tensor]
    local: LocalTraining | None

    @classmethod
    def of(cls, config: ExperimentConfig) -> Problem:
        """The problem that privfl solves with this configuration."""
        return cls._of(assemble(config))

    @classmethod
    def _of(cls, experiment: Experiment) -> Problem:
        data, sizes = experiment.data, experiment.data.sizes()
        members = [torch.from_numpy(data.members_of(client)) for client in range(len(data.clients))]
        if [len(one) for one in members] != list(sizes):
            raise SystemExit("a client of the benchmark task does not train on all that it owns; choose another seed")
        item = narrow(experiment.config.model, Model)
        start = built(item, few(data), experiment.outputs, experiment.seed / "model", data.pool.fields)
        plan = experiment.plan
        return cls(
            config=experiment.config,
            start=start,
            clients=tuple((experiment.x[one], experiment.y[one]) for one in members),
            test=(experiment.test_x[:], experiment.test_y),
            local=plan.planned(int(sizes.max())) if isinstance(plan, ExamplePlan) else None,
        )

    def model(self) -> nn.Module:
        """A copy of the model at the initial weights."""
        return copy.deepcopy(self.start)

    @property
    def cohort(self) -> int:
        """How many clients take part in a round."""
        size = getattr(self.config.cohort, "size", len(self.clients))
        assert isinstance(size, int)
        return size

    def due(self, done: int, rounds: int) -> bool:
        """Whether the model is evaluated after so many rounds of so many."""
        return done % self.config.evaluation.every == 0 or done == rounds

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Share of correct answers on the test split."""
        model.eval()
        pairs = zip(*(torch.split(part, EVALUATION_BATCH) for part in self.test), strict=True)
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs)
        model.train()
        return right / len(self.test[1])


_NAMES = ("pfl", "flower", "flower_simulation", "fedjax")


class Peer(Protocol):
    """One file ``_peer_<name>.py``."""

    TASKS: tuple[str, ...]
    """Which of the tasks it can do."""

    def installed(self) -> bool:
        """Whether it can be imported."""

    def run(self, problem: Problem, rounds: int) -> float:
        """Train from the beginning; returns the last accuracy on the test split."""


def peers() -> dict[str, Peer]:
    """Those that are installed."""
    modules: dict[str, Peer] = {name: importlib.import_module(f"_peer_{name}") for name in _NAMES}
    return {name: module for name, module in modules.items() if module.installed()}


def privfl_run(config: ExperimentConfig) -> float:
    """A whole run, its folder written; returns the last accuracy on the test split."""
    with TemporaryDirectory() as folder:
        recording.run(config, Path(folder) / "run")
        accuracy = json.loads((Path(folder) / "run" / "result.json").read_text())["evaluation"]["accuracy"]["value"]
        return float(accuracy)


@contextmanager
def read_beforehand(config: ExperimentConfig) -> Iterator[None]:
    """The data set is in memory already when it is asked for."""
    kind = type(narrow(config.data, Dataset))
    loaded, load = narrow(config.data, Dataset).load(), kind.load

    def ready(self: Dataset) -> LoadedData:  # noqa: ARG001
        return loaded

    kind.load = ready  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.load = load  # type: ignore[method-assign]


@dataclass(frozen=True)
class Measured:
    """CPU seconds of whole runs, and the accuracies that they reached."""

    seconds: Sample
    accuracy: Sample

    def learnt_as(self, other: Measured) -> bool:
        """Whether the median accuracies are so near that both did the same."""
        return abs(self.accuracy.median - other.accuracy.median) <= WITHIN


def compare(
    name: str, rounds: int, repeats: int, others: Mapping[str, Peer], build: Callable[..., ExperimentConfig] = task
) -> dict[str, Measured]:
    """One of the tasks, by privfl and by those of the others that can do it, after a round each to warm up.

    Args:
        name: one of ``TASKS``.
        rounds: how many rounds a run has.
        repeats: how many runs.
        others: the peers.
        build: gives the task, as ``_task.task`` does.
    """
    model, private = name.removeprefix("dp_"), name.startswith("dp_")
    reached: dict[str, list[float]] = {}

    def ours(rounds: int) -> float:
        return privfl_run(build(rounds, model, private=private))

    with read_beforehand(build(rounds, model, private=private)):
        problem = Problem.of(build(rounds, model, private=private))
        runs: dict[str, Callable[[int], float]] = {"privfl": ours}
        runs |= {peer: partial(module.run, problem) for peer, module in others.items() if name in module.TASKS}

        def whole(peer: str) -> None:
            reached.setdefault(peer, []).append(runs[peer](rounds))

        cases = {peer: partial(whole, peer) for peer in runs}
        warm_up = {peer: partial(run, 1) for peer, run in runs.items()}
        seconds = interleaved(cases, repeats, lambda: time.process_time() + sum(ELSEWHERE), warm_up)
    return {peer: Measured(seconds[peer], Sample(np.array(reached[peer]))) for peer in runs}


def ratios(measured: Mapping[str, Mapping[str, Measured]], *, whole: bool) -> Figures:
    """How much longer the peers take, by task: medians of ratios within a repeat.

    Args:
        measured: by task and by peer.
        whole: the runs are long enough for their accuracies to be compared. Who then did something else has no figure.
    """
    flat: Figures = {}
    for name, runs in measured.items():
        ours = runs["privfl"]
        for peer, other in runs.items():
            if peer == "privfl" or (whole and not other.learnt_as(ours)):
                continue
            flat[f"{peer}_over_privfl.{name}"] = other.seconds.over(ours.seconds).median
    return flat


def compare_all(*, quick: bool) -> tuple[dict[str, dict[str, Measured]], Figures]:
    """All tasks, and the figures that privfl is held to; nothing where no peer is installed."""
    others = peers()
    if not others:
        return {}, {}
    rounds, repeats = (2, 1) if quick else (20, 3)
    measured = {name: compare(name, rounds, repeats, others) for name in TASKS}
    return measured, ratios(measured, whole=not quick)


def print_comparison(measured: Mapping[str, Mapping[str, Measured]]) -> None:
    """A table for each task."""
    for name, runs in measured.items():
        ours = runs["privfl"]
        columns = {
            peer: {
                "CPU s": f"{run.seconds:.2f}",
                "over privfl": f"{run.seconds.over(ours.seconds):.2f}",
                "accuracy, %": f"{run.accuracy.times(100):.2f}",
                "learnt as well": "yes" if run.learnt_as(ours) else "no",
            }
            for peer, run in runs.items()
        }
        print_table(f"the benchmark task, {name}: whole runs", columns)
