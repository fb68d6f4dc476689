"""Ask for the ε of a configuration before it is trained: how noise, rounds and cohorts move the price.

Run it from the folder above: python -m examples.price_before_training
"""

from __future__ import annotations

from typing import Any

import privfl

SETTINGS: dict[str, Any] = {
    "name": "priced",
    "rounds": 20,
    "data": {"kind": "digits", "clients": 10, "partition": {"kind": "iid"}},
    "model": {"kind": "logistic"},
    "cohort": {"kind": "poisson", "size": 5},
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.5},
    "privacy": {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 1.0, "delta": 1e-4},
    "aggregator": {"kind": "secure_sum"},
    "server": {"kind": "fedavg"},
}


def main() -> None:
    """Print a table of prices; nothing is trained."""
    print("noise  rounds      ε")
    for noise in (0.7, 1.0, 2.0):
        for rounds in (5, 20):
            config = privfl.loads(SETTINGS, f"privacy.noise_multiplier={noise}", f"rounds={rounds}")
            print(f"{noise:5.1f}  {rounds:6d}  {privfl.account(config).epsilon:5.2f}")
    # The other way round: the noise that a promise needs.
    config = privfl.loads(SETTINGS, "privacy.noise_multiplier=", "privacy.target_epsilon=2")
    print(privfl.account(config))


if __name__ == "__main__":
    main()
