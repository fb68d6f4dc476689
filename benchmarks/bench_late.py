"""How accurate is a model after so many simulated seconds, if some clients are late?

The same clients, with the same clock, train under each pace: synchronous rounds, deadlines, buffered or asynchronous steps.
Ten clients are busy at a time. Fashion-MNIST over 50 clients with skewed labels; ``--quick`` does the same on digits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from _harness import Figures, options, print_table, write_json

from privfl.loading import load
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic

CONFIG = Path(__file__).parents[1] / "paper_configs" / "digits.toml"
COMMON = (
    *("data.holdout=0", 'data.partition={kind="dirichlet",alpha=0.5}', "privacy=none", "attacks.run=[]", "aggregator=mean"),
    *('cohort={kind="fixed",size=10}', "training.local_epochs=4", "training.batch_size=20", "server=fedavg"),
    'clock={kind="lognormal",seconds=10.0,sigma=0.5,speed_spread=0.7}',
)
FULL = ("data.kind=fashion_mnist", "data.train_size=10000", "data.clients=50", "model=mlp", "training.lr=0.05")
QUICK = ("data.kind=digits", "data.clients=20", "model=logistic", "training.lr=0.5")
PACES: Mapping[str, tuple[str, int]] = {
    "synchronous": ("pace=synchronous", 60),
    "deadline of 10 s, late work dropped": ('pace={kind="deadline",seconds=10.0,late="drop"}', 120),
    "deadline of 20 s, late work dropped": ('pace={kind="deadline",seconds=20.0,late="drop"}', 60),
    "deadline of 10 s, partial work kept": ('pace={kind="deadline",seconds=10.0,late="partial"}', 120),
    "buffered, groups of 5": ('pace={kind="buffered",size=5}', 300),
    "buffered, groups of 3": ('pace={kind="buffered",size=3}', 500),
    "asynchronous": ("pace=asynchronous", 1500),
}
"""A pace, and as many rounds as its seconds may take."""
SECONDS = (100.0, 300.0, 1000.0)


def measured(overrides: Sequence[str], seed: int) -> tuple[list[float], int, float]:
    """The test accuracy after each of :data:`SECONDS`, the number of trainings that reached the model, and mean staleness."""
    with deterministic():
        experiment = assemble(load(CONFIG, *overrides, f"seed={seed}"))
        state, turns, found = experiment.initial_state(), experiment.timetable.turns, list[float]()
        y, staleness = torch.from_numpy(experiment.data.test.y), list[int]()
        assert turns[-1].ends is not None
        assert turns[-1].ends > SECONDS[-1], "more rounds are needed"
        for turn in turns:
            assert turn.ends is not None
            while len(found) < len(SECONDS) and turn.ends > SECONDS[len(found)]:
                logits = experiment.logits(state.global_D, experiment.test_x)
                found.append(experiment.task.metrics(logits, y)["accuracy"].value)
            if len(found) == len(SECONDS):
                break
            state = experiment.step(state).state
            staleness += [turn.staleness.get(client, 0) for client in turn.clients]
    return found, len(staleness), float(np.mean(staleness))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures."""
    asked = options(__doc__ or "", argv)
    seeds = 1 if asked.quick else 3
    flat: Figures = {"seeds": seeds}
    table: dict[str, dict[str, str]] = {}
    for name, (pace, rounds) in PACES.items():
        settings = (*COMMON, *(QUICK if asked.quick else FULL), pace, f"rounds={rounds}")
        runs = [measured(settings, seed) for seed in range(seeds)]
        for place, seconds in enumerate(SECONDS):
            accuracies = [found[place] for found, _, _ in runs]
            mean, spread = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)) if seeds > 1 else 0.0
            flat |= {f"{name}.{seconds:g}s.accuracy": mean, f"{name}.{seconds:g}s.sd": spread}
            table.setdefault(f"{seconds:g} s", {})[name] = f"{mean:.1%}" + (f" ({100 * spread:.1f})" if seeds > 1 else "")
        trainings, stale = (float(np.mean([run[at] for run in runs])) for at in (1, 2))
        flat |= {f"{name}.trainings": trainings, f"{name}.staleness": stale}
        table.setdefault("trainings", {})[name] = f"{trainings:.0f}"
        table.setdefault("mean staleness", {})[name] = f"{stale:.1f}"
    if asked.json is not None:
        write_json(asked.json, flat)
    else:
        print_table("Test accuracy after simulated seconds", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
