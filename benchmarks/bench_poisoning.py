"""How much accuracy is left when a fifth of the clients poison the model, under each rule of aggregation?

Every rule is run without attackers, with clients that flip their labels, and with clients that send four times their update
with the opposite sign. Fashion-MNIST over 20 clients; ``--quick`` does the same on digits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _harness import Figures, options, print_table, write_json

from privfl.loading import load
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic

CONFIG = Path(__file__).parents[1] / "paper_configs" / "digits.toml"
COMMON = (
    *("data.clients=20", "data.holdout=0", "privacy=none", "attacks.run=[]", "cohort=all"),
    *("training.local_epochs=1", "training.batch_size=16", "server=fedavg"),
)
FULL = ("data.kind=fashion_mnist", "data.train_size=10000", "model=mlp", "training.lr=0.05", "rounds=15")
QUICK = ("data.kind=digits", "model=logistic", "training.lr=0.5", "rounds=15")
RULES = {
    "mean": ("aggregator=mean",),
    "secure sum, centred clipping": ("aggregator=secure_sum", 'algorithm={kind="centred_clipping",tau=0.5}'),
    "norm bound": ('aggregator={kind="norm_bound",max_norm=0.5}',),
    "median": ("aggregator=median",),
    "trimmed mean": ("aggregator=trimmed_mean",),
    "geometric median": ("aggregator=geometric_median",),
    "krum": ("aggregator=krum",),
    "krum, 12 selected": ('aggregator={kind="krum",selected=12}',),
    "bulyan": ("aggregator=bulyan",),
    "sign majority": ('aggregator={kind="sign_majority",step=0.003}',),
}
ATTACKS = {
    "none": "behaviour=honest",
    "labels flipped": 'behaviour={kind="label_flip",share=0.2}',
    "signs flipped": 'behaviour={kind="sign_flip",share=0.2,scale=4.0}',
}


def accuracy(overrides: Sequence[str], seed: int) -> float:
    """The test accuracy of one run."""
    with deterministic():
        experiment = assemble(load(CONFIG, *overrides, f"seed={seed}"))
        logits = experiment.logits(experiment.train(), experiment.test_x)
    return experiment.task.metrics(logits, torch.from_numpy(experiment.data.test.y))["accuracy"].value


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures."""
    asked = options(__doc__ or "", argv)
    seeds = 1 if asked.quick else 3
    flat: Figures = {"seeds": seeds}
    table: dict[str, dict[str, str]] = {}
    for rule, settings in RULES.items():
        for attack, behaviour in ATTACKS.items():
            overrides = (*COMMON, *(QUICK if asked.quick else FULL), *settings, behaviour)
            found = [accuracy(overrides, seed) for seed in range(seeds)]
            spread = float(np.std(found, ddof=1)) if seeds > 1 else 0.0
            flat |= {f"{rule}.{attack}": float(np.mean(found)), f"{rule}.{attack}.sd": spread}
            table.setdefault(attack, {})[rule] = f"{np.mean(found):.1%}" + (f" ({100 * spread:.1f})" if seeds > 1 else "")
    if asked.json is not None:
        write_json(asked.json, flat)
    else:
        print_table("Test accuracy with a fifth of the clients corrupt", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
