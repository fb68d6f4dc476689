"""Set runs side by side: as a table that pandas and polars read, and as a page.

Run it from the folder above: python -m examples.compare_runs
"""

from __future__ import annotations

import privfl

SETTINGS = {
    "name": "compared",
    "rounds": 3,
    "data": {"kind": "digits", "clients": 5, "partition": {"kind": "dirichlet", "alpha": 0.3}},
    "model": {"kind": "logistic"},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.2},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
}

if __name__ == "__main__":
    runs = [privfl.run(privfl.loads(SETTINGS, f"training.lr={lr}")) for lr in (0.05, 0.2, 0.8)]
    table = privfl.load_runs(runs)
    for row in table.rows():
        print(f"lr {row['training.lr']}: {row['accuracy']:.1%} ({row['accuracy_low']:.1%} to {row['accuracy_high']:.1%})")
    print(table.to_csv("runs/compared.csv"))
    print(privfl.compare(runs, "runs/compared.html"))
