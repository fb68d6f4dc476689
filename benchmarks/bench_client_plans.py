"""What is a client-level promise worth, plan by plan, at the same ε? Fashion-MNIST, logistic regression, over seeds.

Two questions. Does distributed noise inside real secure aggregation, with a tenth of the clients lost in every round, reach
the accuracy of a trusted server's noise at the same ε (the claim of the DDGauss and Skellam papers)? And how do DP-FedAvg,
adaptive clipping and DP-FTRL compare, where cohorts are a tenth of the clients? ``--quick`` asks both on digits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _harness import Figures, options, print_table, write_json
from numpy.typing import NDArray

from privfl.loading import loads
from privfl.running import pricing
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic

Table = dict[str, Any]

LOST = {"masked_input": 0.1}
"""A tenth of the clients, lost after the others have masked with them."""


@dataclass(frozen=True)
class Setting:
    """A federation and what it is promised; δ is below one over the clients."""

    data: str
    clients: int
    rounds: int
    cohort: int
    epsilon: float
    delta: float
    norm: float
    batch: int

    def config(self, seed: int, **changed: Any) -> Table:
        """A run of it, everybody taking part, by a mean in the clear."""
        return {
            "name": "client_plans",
            "seed": seed,
            "rounds": self.rounds,
            "device": "cpu",
            "data": {"kind": self.data, "clients": self.clients, "partition": {"kind": "iid"}, "holdout": 0.05},
            "model": {"kind": "logistic"},
            "cohort": {"kind": "all"},
            "training": {"local_epochs": 1, "batch_size": self.batch, "lr": 0.1},
            "privacy": {"kind": "none"},
            "aggregator": {"kind": "mean"},
            "server": {"kind": "fedavg"},
            "records": {"views": "final"},
        } | changed

    def promise(self, kind: str, **settings: Any) -> Table:
        """A plan at the setting's ε."""
        return {
            "kind": kind,
            "target_epsilon": self.epsilon,
            "delta": self.delta,
            "max_update_norm": self.norm,
        } | settings


FULL = (
    Setting("fashion_mnist", clients=300, rounds=20, cohort=300, epsilon=2.0, delta=1e-3, norm=0.5, batch=32),
    Setting("fashion_mnist", clients=1000, rounds=60, cohort=100, epsilon=2.0, delta=5e-4, norm=0.5, batch=16),
)
QUICK = (
    Setting("digits", clients=40, rounds=3, cohort=40, epsilon=8.0, delta=1e-2, norm=0.5, batch=16),
    Setting("digits", clients=100, rounds=6, cohort=20, epsilon=8.0, delta=1e-3, norm=0.5, batch=8),
)


def trusted_or_not(setting: Setting) -> dict[str, Table]:
    """No promise, a trusted server's noise, and the clients' own shares in 16 and 20 bits with a tenth lost."""
    # Sized for the honest of those who are left when 15 % are lost and 5 % are corrupt.
    survivors = setting.clients - int(0.15 * setting.clients) - int(0.05 * setting.clients) - 1
    secure = {"kind": "secure_sum", "max_corrupt": 0.05, "max_dropout": 0.15, "dropout": LOST}

    def shares(mechanism: str, bits: int) -> Table:
        privacy = setting.promise("client_distributed", mechanism=mechanism, bits=bits, survivors=survivors)
        return {"privacy": privacy, "aggregator": secure}

    return {
        "no promise": {},
        "central": {"privacy": setting.promise("client_central")},
        "Skellam, 16 bits": shares("skellam", 16),
        "Skellam, 20 bits": shares("skellam", 20),
        "discrete Gaussian, 16 bits": shares("discrete_gaussian", 16),
    }


def by_cohorts(setting: Setting) -> dict[str, Table]:
    """No promise, and the central plans, each with the cohorts that it is priced for."""
    size, separation = setting.cohort, setting.clients // setting.cohort
    poisson, apart = ({"kind": kind, "size": size} for kind in ("poisson", "separated"))
    apart["separation"] = separation
    adaptive = setting.promise("client_central", clipping={"kind": "adaptive"})
    return {
        "no promise": {"cohort": {"kind": "fixed", "size": size}},
        "DP-FedAvg": {"cohort": poisson, "privacy": setting.promise("client_central")},
        "adaptive clipping": {"cohort": poisson, "privacy": adaptive},
        "DP-FTRL, banded": {"cohort": apart, "privacy": setting.promise("client_dpftrl")},
        "DP-FTRL, tree": {"cohort": apart, "privacy": setting.promise("client_dpftrl", factorization="tree")},
    }


def accuracy(table: Table) -> tuple[float, float]:
    """Test accuracy of a run, and the ε that it was priced at; infinity without a promise."""
    with deterministic():
        experiment = assemble(loads(table))
        logits = experiment.logits(experiment.train(), experiment.test_x)
        found = experiment.task.metrics(logits, torch.from_numpy(experiment.data.test.y))["accuracy"].value
        if table["privacy"]["kind"] == "none":
            return found, float("inf")
        return found, pricing.epsilon_by_round(experiment)[-1]


def compared(setting: Setting, plans: Mapping[str, Table], seeds: int) -> dict[str, tuple[NDArray[np.float64], float]]:
    """Accuracies over seeds, plan by plan, and the largest ε."""
    found = {}
    for name, changed in plans.items():
        runs = [accuracy(setting.config(seed, **changed)) for seed in range(seeds)]
        found[name] = (np.array([value for value, _ in runs]), max(epsilon for _, epsilon in runs))
        print(f"{name}: {found[name]}", file=sys.stderr)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write the figures."""
    asked = options(__doc__ or "", argv)
    seeds = 2 if asked.quick else 3
    flat: Figures = {"seeds": seeds}
    first, second = QUICK if asked.quick else FULL
    questions = {
        "Noise of clients, noise of a server": compared(first, trusted_or_not(first), seeds),
        "Plans of a trusted server": compared(second, by_cohorts(second), seeds),
    }
    for title, found in questions.items():
        rows, against = {}, found.get("central", found.get("DP-FedAvg"))
        assert against is not None
        for name, (values, epsilon) in found.items():
            key = f"{title.split()[0].lower()}.{name}"
            difference = values - against[0]
            flat |= {f"{key}.accuracy": float(values.mean()), f"{key}.accuracy_sd": float(values.std(ddof=1))}
            rows[name] = {
                "test accuracy, mean": f"{values.mean():.2%}",
                "standard deviation over seeds": f"{values.std(ddof=1):.2%}",
                "difference to the first plan, seed by seed": f"{difference.mean():+.2%} ± {difference.std(ddof=1):.2%}",
                "ε, largest": f"{epsilon:.3f}",
            }
        if asked.json is None:
            print_table(title, rows)
    if asked.json is not None:
        write_json(asked.json, flat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
