"""What does the promise cost in accuracy? The quickstart with and without privacy, over seeds.

Each seed deals the data, draws members and cohorts, initialises and trains anew. ``--quick`` does the same on digits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _harness import Figures, options, print_table, write_json

from privfl.loading import load
from privfl.privacy.plans.example import ExamplePlan
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic

CONFIGS = Path(__file__).parents[1] / "paper_configs"
FULL = (("quickstart.toml", ()), ("quickstart_no_privacy.toml", ()))
QUICK = (("digits.toml", ()), ("digits.toml", ("privacy.kind=none",)))


def accuracies(config: str, overrides: Sequence[str], seeds: int) -> tuple[list[float], float]:
    """Test accuracy for each seed, and the largest noise multiplier; 0 where there is no noise."""
    found, noise = [], 0.0
    for seed in range(seeds):
        with deterministic():
            experiment = assemble(load(CONFIGS / config, *overrides, f"seed={seed}"))
            logits = experiment.logits(experiment.train(), experiment.test_x)
        found.append(experiment.task.metrics(logits, torch.from_numpy(experiment.data.test.y))["accuracy"].value)
        if isinstance(experiment.plan, ExamplePlan) and experiment.plan.noise_multiplier is not None:
            noise = max(noise, experiment.plan.noise_multiplier)
    return found, noise


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures."""
    asked = options(__doc__ or "", argv)
    seeds = 3 if asked.quick else 5
    flat: Figures = {"seeds": seeds}
    columns: dict[str, dict[str, str]] = {}
    for config, overrides in QUICK if asked.quick else FULL:
        values, noise = accuracies(config, overrides, seeds)
        name = " ".join((config.removesuffix(".toml"), *overrides))
        mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
        flat |= {f"{name}_accuracy": mean, f"{name}_accuracy_sd": deviation, f"{name}_noise_multiplier": noise}
        columns[name] = {
            "test accuracy, mean": f"{mean:.2%}",
            "standard deviation over seeds": f"{deviation:.2%}",
            "noise multiplier, largest": f"{noise:g}",
            "seeds": ", ".join(f"{value:.2%}" for value in values),
        }
    if asked.json is not None:
        write_json(asked.json, flat)
    else:
        print_table("What the promise costs", columns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
