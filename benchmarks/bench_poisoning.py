"""How much accuracy is left when a fifth of the clients poison the model, under each rule of aggregation?

Every rule is run without attackers and with each attack of the shelf of behaviours. Backdoors also have their success: the
share of test inputs of other classes that get the target label if they show the trigger. Without attackers the same is given as
its base rate. Fashion-MNIST over 20 clients; ``--quick`` does the same on digits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _harness import Figures, options, print_table, write_json

from privfl.federation.behaviours.model_replacement import ModelReplacement
from privfl.loading import load
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.poisoning import success

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
    "fltrust": ("aggregator=fltrust",),
    "sign majority": ('aggregator={kind="sign_majority",step=0.003}',),
}
ATTACKS = {
    "none": "behaviour=honest",
    "labels flipped": 'behaviour={kind="label_flip",share=0.2}',
    "signs flipped": 'behaviour={kind="sign_flip",share=0.2,scale=4.0}',
    "a little is enough": 'behaviour={kind="alie",share=0.2,z=1.5}',
    "inner product": 'behaviour={kind="ipm",share=0.2,eps=10.0}',
    "min-max": 'behaviour={kind="min_max",share=0.2}',
    "min-sum": 'behaviour={kind="min_sum",share=0.2}',
    "model replacement": 'behaviour={kind="model_replacement",share=0.2,size=4}',
    "distributed backdoor": 'behaviour={kind="dba",share=0.2}',
}
BACKDOORS = ("none", "model replacement", "distributed backdoor")
"""Attacks for which the success of the backdoor is given; without attackers it is the base rate."""
TRIGGER = ModelReplacement(kind="model_replacement", share=0.2, size=4)


def measured(overrides: Sequence[str], seed: int) -> tuple[float, float]:
    """The test accuracy of one run, and the success of a backdoor with a trigger of four by four pixels and target 0."""
    with deterministic():
        experiment = assemble(load(CONFIG, *overrides, f"seed={seed}"))
        final = replace(experiment.initial_state(), global_D=experiment.train())
        logits = experiment.logits(final.global_D, experiment.test_x)
        backdoor = success(replace(experiment, behaviour=TRIGGER), final, None)
    assert backdoor is not None
    return experiment.task.metrics(logits, experiment.test_y)["accuracy"].value, backdoor.value


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write the figures."""
    asked = options(__doc__ or "", argv)
    seeds = 1 if asked.quick else 3
    flat: Figures = {"seeds": seeds}
    tables: dict[str, dict[str, dict[str, str]]] = {"accuracy": {}, "success": {}}
    for rule, settings in RULES.items():
        for attack, behaviour in ATTACKS.items():
            overrides = (*COMMON, *(QUICK if asked.quick else FULL), *settings, behaviour)
            found = [measured(overrides, seed) for seed in range(seeds)]
            for (name, table), values in zip(tables.items(), zip(*found, strict=True), strict=True):
                if name == "success" and attack not in BACKDOORS:
                    continue
                spread = float(np.std(values, ddof=1)) if seeds > 1 else 0.0
                key = f"{rule}.{attack}" if name == "accuracy" else f"{rule}.{attack}.success"
                flat |= {key: float(np.mean(values)), f"{key}.sd": spread}
                shown = f"{np.mean(values):.1%}" + (f" ({100 * spread:.1f})" if seeds > 1 else "")
                table.setdefault(attack, {})[rule] = shown
    if asked.json is not None:
        write_json(asked.json, flat)
    else:
        print_table("Test accuracy with a fifth of the clients corrupt", tables["accuracy"])
        print_table("Success of the backdoor", tables["success"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
