"""The benchmark task, whole: Fashion-MNIST at 100 clients of 600, 10 a round, one epoch of batch 32, lr 0.1."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.learning.training import LocalResult, LocalTask
from privfl.learning.training.fused import Fused
from privfl.loading import loads
from privfl.running import recording

TRAINING: dict[str, Any] = {"local_epochs": 1, "batch_size": 32, "lr": 0.1}
MODELS: dict[str, dict[str, Any]] = {"cnn": {"kind": "cnn"}, "mlp": {"kind": "mlp", "hidden": [200]}}


def task(rounds: int, model: str = "cnn", *, private: bool = False, **changed: Any) -> ExperimentConfig:
    """The task, evaluated every ten rounds; ``private``: with example-level DP-SGD at every client.

    ``changed``: other sections than these. Nothing is held out: every client trains on all that it owns.
    """
    privacy = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.5, "delta": 1e-5}
    sections: dict[str, Any] = {
        "name": "benchmark",
        "seed": 0,
        "rounds": rounds,
        "device": "cpu",
        "data": {"kind": "fashion_mnist", "clients": 100, "partition": {"kind": "iid"}, "holdout": 0.0},
        "model": MODELS[model],
        "cohort": {"kind": "fixed", "size": 10},
        "training": TRAINING,
        "privacy": privacy if private else {"kind": "none"},
        "aggregator": {"kind": "mean"},
        "server": {"kind": "fedavg"},
        "evaluation": {"every": 10},
        # Its peers keep nothing of what a server saw of each update, so neither does this run.
        "records": {"views": "final"},
    }
    return loads(sections | changed)


def outside_training_share(rounds: int) -> float:
    """The share of a whole run's processor time that is spent outside of local training, reading the data included."""
    inside, train = 0.0, Fused.train

    def timed(self: Fused, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        nonlocal inside
        begun = time.process_time()
        found = train(self, global_D, tasks)
        inside += time.process_time() - begun
        return found

    Fused.train = timed  # type: ignore[method-assign]
    try:
        with TemporaryDirectory() as folder:
            begun = time.process_time()
            recording.run(task(rounds), Path(folder) / "run")
            return 1 - inside / (time.process_time() - begun)
    finally:
        Fused.train = train  # type: ignore[method-assign]
