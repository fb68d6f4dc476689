"""How much accuracy do compressed uploads cost, and how many bytes do they save?

Every transform compresses the uploads of the same federated run, and the table has the bytes of one upload beside the test
accuracy. Fashion-MNIST over 20 clients with skewed labels; ``--quick`` does the same on digits. ``--picture FILE`` draws it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from _harness import Figures, options, print_table, write_json
from matplotlib import pyplot as plt

from privfl.loading import load
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic

CONFIG = Path(__file__).parents[1] / "paper_configs" / "digits.toml"
COMMON = (
    *("data.clients=20", "data.holdout=0", "privacy=none", "attacks.run=[]", "cohort=all", "aggregator=mean"),
    *("training.local_epochs=1", "training.batch_size=16", "server=fedavg"),
)
FULL = ("data.kind=fashion_mnist", "data.train_size=10000", "model=mlp", "training.lr=0.05", "rounds=20")
QUICK = ("data.kind=digits", "model=logistic", "training.lr=0.5", "rounds=10")
TRANSFORMS: Mapping[str, str] = {
    "identity": 'transform="identity"',
    "random_k, 25 %": 'transform={kind="random_k",share=0.25}',
    "random_k, 10 %": 'transform={kind="random_k",share=0.1}',
    "random_k, 3 %": 'transform={kind="random_k",share=0.03}',
    "power_sgd, rank 8": 'transform={kind="power_sgd",rank=8}',
    "power_sgd, rank 2": 'transform={kind="power_sgd",rank=2}',
    "count_sketch, 50 %": 'transform={kind="count_sketch",share=0.5}',
    "count_sketch, 25 %": 'transform={kind="count_sketch",share=0.25}',
    "top_k, 10 %": 'transform={kind="top_k",share=0.1}',
    "top_k, 1 %": 'transform={kind="top_k",share=0.01}',
    "qsgd, 15 levels": 'transform={kind="qsgd",levels=15}',
    "qsgd, 1 level": 'transform={kind="qsgd",levels=1}',
    "scaled_sign": "transform=scaled_sign",
    "eden, 4 bits": 'transform={kind="eden",bits=4}',
    "eden, 1 bit": 'transform={kind="eden",bits=1}',
    "eden, 1 bit, least error": 'transform={kind="eden",bits=1,scale="least_error"}',
}


def measured(overrides: Sequence[str], seed: int) -> tuple[int, float]:
    """The bytes of one upload, as the aggregator counts them, and the test accuracy of one run."""
    with deterministic():
        experiment = assemble(load(CONFIG, *overrides, f"seed={seed}"))
        state, sent = experiment.initial_state(), 0
        while state.round < experiment.config.rounds:
            outcome = experiment.step(state)
            assert outcome.aggregate is not None
            sent += outcome.aggregate.cost.bytes_up
            state = outcome.state
        logits = experiment.logits(state.global_D, experiment.test_x)
    uploads = experiment.config.rounds * len(experiment.data.clients)
    return sent // uploads, experiment.task.metrics(logits, torch.from_numpy(experiment.data.test.y))["accuracy"].value


def draw(path: Path, points: Mapping[str, tuple[int, float, float]]) -> None:
    """Bytes of an upload against accuracy, a marker for each kind of transform."""
    mpl.rcParams["svg.hashsalt"] = "privfl"
    figure, axes = plt.subplots(figsize=(7, 4))
    kinds = list(dict.fromkeys(name.split(",")[0] for name in points))
    for kind, marker in zip(kinds, "os^Dv<>P", strict=True):
        own = sorted(value for name, value in points.items() if name.split(",")[0] == kind)
        sizes, means, spreads = zip(*own, strict=True)
        axes.errorbar(sizes, means, yerr=spreads, marker=marker, capsize=3, label=kind)
    axes.set(xscale="log", xlabel="bytes of one upload", ylabel="test accuracy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures."""
    asked = options(__doc__ or "", argv, picture=True)
    seeds = 1 if asked.quick else 3
    flat: Figures = {"seeds": seeds}
    table: dict[str, dict[str, str]] = {}
    points: dict[str, tuple[int, float, float]] = {}
    for name, transform in TRANSFORMS.items():
        found = [measured((*COMMON, *(QUICK if asked.quick else FULL), transform), seed) for seed in range(seeds)]
        accuracies = [accuracy for _, accuracy in found]
        spread = float(np.std(accuracies, ddof=1)) if seeds > 1 else 0.0
        size, mean = found[0][0], float(np.mean(accuracies))
        points[name] = (size, mean, spread)
        flat |= {f"{name}.bytes": size, f"{name}.accuracy": mean, f"{name}.sd": spread}
        table.setdefault("bytes", {})[name] = f"{size:,}"
        table.setdefault("share", {})[name] = f"{size / points['identity'][0]:.1%}"
        table.setdefault("accuracy", {})[name] = f"{mean:.1%}" + (f" ({100 * spread:.1f})" if seeds > 1 else "")
    if asked.picture is not None:
        draw(asked.picture, points)
    if asked.json is not None:
        write_json(asked.json, flat)
    else:
        print_table("Bytes of one upload and test accuracy", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
