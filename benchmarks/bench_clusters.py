"""What do several global models gain if clients come in groups?

Fashion-MNIST over 20 clients, half of which see their images upside down. Each method is run without a promise, on three seeds.
The figures are the accuracy of each client's model on its own held-out examples, for the mean and for the worst client, and the
share of clients that are in their group's cluster. Methods whose clients choose do the same under secure sums. ``--quick`` runs
digits with one seed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _harness import Figures, options, print_table, write_json
from numpy.typing import NDArray

from privfl.learning import evaluation
from privfl.loading import load
from privfl.running import clusters
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment

CONFIG = Path(__file__).parents[1] / "paper_configs" / "digits.toml"
COMMON = (
    *("data.clients=20", "data.partition=iid", "data.holdout=0.2", "data.rotations=[0,180]", "privacy=none", "attacks.run=[]"),
    *("cohort=all", "training.local_epochs=1", "training.batch_size=16", "server=fedavg", "aggregator=mean"),
)
FULL = ("data.kind=fashion_mnist", "data.train_size=5000", "model=mlp", "training.lr=0.05", "rounds=16")
QUICK = ("data.kind=digits", "model=logistic", "training.lr=0.1", "rounds=12")
METHODS = {
    "FedAvg": (),
    "k-means, by the server": ('algorithm={kind="kmeans",warmup=2,assigned_by="server"}',),
    "k-means, by clients": ('algorithm={kind="kmeans",warmup=2,steps=3}',),
    "IFCA": ('algorithm={kind="ifca"}',),
    "CFL": ('algorithm={kind="cfl",clusters=2,first_round=3,mean_norm=0.4,longest_norm=0.6}',),
}


def agreement(place_K: NDArray[np.int64], group_K: NDArray[np.int64]) -> float:
    """The share of clients in the cluster that most of their group is in, if each cluster has one group; 2 groups."""
    same = float(np.mean(place_K == group_K))
    return max(same, 1 - same)


def measured(experiment: Experiment) -> dict[str, float]:
    """Train a run; the accuracy of the mean and the worst client on their own hold-outs, and the share of clients found."""
    state = experiment.initial_state()
    up = 0
    while state.round < experiment.config.rounds:
        outcome = experiment.step(state)
        state = outcome.state
        up += outcome.aggregate.cost.bytes_up if outcome.aggregate is not None else 0
    data, place_K = experiment.data, clusters.places(experiment, state)
    rows_N = np.flatnonzero(data.held_out())
    index = torch.from_numpy(rows_N)
    outputs = clusters.outputs(experiment, state, experiment.x, index, data.owner_N, place_K)
    found = evaluation.client_values(experiment.task, outputs, experiment.y[index], data.owner_N[rows_N])
    assert data.group_K is not None
    return {
        "mean client": float(np.mean(list(found.values()))),
        "worst client": min(found.values()),
        "in its group": agreement(place_K, data.group_K) if experiment.algorithm.models > 1 else float("nan"),
        "MB up": up / 1e6,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures."""
    asked = options(__doc__ or "", argv)
    seeds = 1 if asked.quick else 3
    flat: Figures = {"seeds": seeds}
    table: dict[str, dict[str, str]] = {}
    for method, settings in METHODS.items():
        runs = []
        for seed in range(seeds):
            with deterministic():
                runs.append(
                    measured(assemble(load(CONFIG, *COMMON, *(QUICK if asked.quick else FULL), *settings, f"seed={seed}")))
                )
        for figure in runs[0]:
            values = [run[figure] for run in runs]
            flat |= {
                f"{method}.{figure}": float(np.mean(values)),
                f"{method}.{figure}.sd": float(np.std(values, ddof=seeds > 1)),
            }
            text = f"{np.mean(values):.1f}" if figure == "MB up" else f"{np.mean(values):.1%}"
            if seeds > 1 and figure != "MB up":
                text += f" ({100 * np.std(values, ddof=1):.1f})"
            table.setdefault(figure, {})[method] = "–" if np.isnan(values).any() else text
    if asked.json is not None:
        write_json(asked.json, flat)
    else:
        print_table("Each client's own model on its own held-out examples; half of the clients see images upside down", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
