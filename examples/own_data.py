"""Train on a data set of your own: four hospitals that name themselves, each with its own mix of patients.

Run it from the folder above: python -m examples.own_data
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

import privfl
from privfl.data.datasets import About, Dataset
from privfl.data.federated import Examples, LoadedData

HOSPITALS = ("hospital north", "hospital east", "hospital south", "hospital west")


class Hospitals(Dataset):
    """Made-up patients: x are 8 measurements, shape (N, 8); y is 1 for the ill."""

    about: ClassVar[About] = About("patients, made up", train=600, test=200, classes=2, licence="CC0", homepage="none")

    def read(self) -> LoadedData:
        """The same patients each time: the generator has a seed."""
        generator = np.random.default_rng(2026)
        y = generator.integers(0, 2, 800)
        x = (generator.normal(size=(800, 8)) + 0.8 * y[:, None]).astype(np.float32)
        return LoadedData(
            train=Examples(x[:600], y[:600]),
            test=Examples(x[600:], y[600:]),
            classes=("healthy", "ill"),
            provenance="Made-up patients.",
            natural_N=generator.choice(4, 600, p=[0.4, 0.3, 0.2, 0.1]),
            natural_names=HOSPITALS,
        )


SETTINGS = {
    "name": "own-data",
    "rounds": 3,
    "data": {"kind": "examples.own_data", "partition": {"kind": "natural"}},
    "model": {"kind": "logistic"},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.2},
    "privacy": {"kind": "example", "target_epsilon": 4.0, "max_grad_norm": 1.0, "delta": 1e-3},
    "aggregator": {"kind": "secure_sum"},
    "server": {"kind": "fedavg"},
}

if __name__ == "__main__":
    run = privfl.run(privfl.loads(SETTINGS))
    print(run)
    for hospital, epsilon in run.epsilon.clients.items():
        print(f"{hospital}: ε = {epsilon:.2f}")
