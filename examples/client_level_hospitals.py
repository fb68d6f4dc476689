"""Protect four hospitals as a whole, each patient of theirs included, and see that so few clients pay dearly for it.

Run it from the folder above: python -m examples.client_level_hospitals
"""

from __future__ import annotations

import privfl

# The data set is that of examples/own_data.py.
SETTINGS = {
    "name": "client-level",
    "rounds": 5,
    "data": {"kind": "examples.own_data", "partition": {"kind": "natural"}},
    "model": {"kind": "logistic"},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 2, "batch_size": 16, "lr": 0.2},
    "privacy": {"kind": "client_central", "noise_multiplier": 1.0, "max_update_norm": 1.0, "delta": 0.01},
    "aggregator": {"kind": "secure_sum"},
    "server": {"kind": "fedavg"},
}

if __name__ == "__main__":
    for noise in (0.5, 2.0, 8.0):
        run = privfl.run(privfl.loads(SETTINGS, f"privacy.noise_multiplier={noise}"))
        accuracy = run.metrics["accuracy"].value
        print(f"noise {noise}: ε = {run.epsilon:.2f} per {run.epsilon.unit}, test accuracy {accuracy:.1%}")
    print(f"in one run hospital north alone has ε = {run.epsilon['hospital north']:.2f}")
