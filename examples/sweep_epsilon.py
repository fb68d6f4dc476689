"""Find out what privacy costs in accuracy: one configuration under several ε, and without a promise.

Run it from the folder above: python -m examples.sweep_epsilon
"""

from __future__ import annotations

import privfl

SETTINGS = {
    "name": "sweep",
    "rounds": 4,
    "data": {"kind": "digits", "clients": 10, "partition": {"kind": "iid"}},
    "model": {"kind": "logistic"},
    "cohort": {"kind": "poisson", "size": 5},
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.5},
    "privacy": {"kind": "example", "target_epsilon": 8.0, "max_grad_norm": 1.0, "delta": 1e-4},
    "aggregator": {"kind": "secure_sum"},
    "server": {"kind": "fedavg"},
}
PROMISES = ["privacy.target_epsilon=1", "privacy.target_epsilon=8", "privacy=none"]


if __name__ == "__main__":
    print("      ε  test accuracy")
    for promise in PROMISES:
        run = privfl.run(privfl.loads(SETTINGS, promise))
        accuracy = run.metrics["accuracy"]
        print(f"{run.epsilon:7.2f}  {accuracy.value:.1%}  (95 % interval {accuracy.low:.1%} to {accuracy.high:.1%})")
