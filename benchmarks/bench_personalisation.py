"""How much better than the global model, and than training alone, are personal models, and what do they give away?

Heart disease at its four hospitals, and Fashion-MNIST over 20 clients with labels dealt by Dirichlet(0.1). Each client's models
are measured on its own held-out examples. The membership attack on loss is made on the global model and on the clients' own
models.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _harness import Figures, options, print_table, write_json
from scipy import stats

from privfl.auditing.questions.membership import MembershipFinding
from privfl.loading import load
from privfl.records import PersonalResult
from privfl.running.attacking import attack
from privfl.running.recording import run
from privfl.tables import narrow

CONFIG = Path(__file__).parents[1] / "paper_configs" / "digits.toml"
COMMON = (
    *("privacy=none", "aggregator=mean", "server=fedavg", "cohort=all", "attacks.run=[]", "records.views=final"),
    *("attacks.shadow_models=0", "attacks.exposed=0", "training.local_epochs=2", "training.batch_size=16"),
)
HEART = (
    *("data.kind=heart_disease", "data.clients=", "data.partition=natural", "data.holdout=0.3"),
    *('model={kind="mlp",hidden=[16]}', "training.lr=0.05", "rounds=20", "evaluation.every=20"),
)
FASHION = (
    *("data.kind=fashion_mnist", "data.train_size=4000", "data.clients=20", "data.holdout=0.3"),
    *('data.partition={kind="dirichlet",alpha=0.1}', "model=mlp", "training.lr=0.05", "rounds=10", "evaluation.every=10"),
)
QUICK = (
    *("data.kind=digits", "data.clients=8", "data.holdout=0.2", 'data.partition={kind="dirichlet",alpha=0.3}'),
    *('model={kind="mlp",hidden=[16]}', "training.lr=0.1", "rounds=4", "evaluation.every=4"),
)
METHODS = {
    "fine-tuning": '{kind="fine_tuning"}',
    "fedper": '{kind="fedper"}',
    "fedrep": '{kind="fedrep"}',
    "ditto": '{kind="ditto"}',
    "pfedme": '{kind="pfedme",outer_lr=0.05}',
    "apfl": '{kind="apfl"}',
    "per-fedavg": '{kind="perfedavg",inner_lr=0.05}',
    "mr-mtl": '{kind="mr_mtl"}',
}
ALONE, GLOBAL = "alone", "global (fedavg)"
Rows = dict[str, dict[str, list[float]]]


def measured(overrides: Sequence[str], algorithm: str, folder: Path) -> tuple[PersonalResult, dict[str, float]]:
    """The clients' figures in a run, and the AUC of the loss on all candidates, by adversary."""
    done = run(load(CONFIG, *overrides, f"algorithm={algorithm}"), folder)
    found = [narrow(one, MembershipFinding) for one in attack(folder, ["membership/loss", "membership/personal_loss"])]
    assert done.result.personal is not None
    records = [record for one in found for record in one.attacks if record.variant == "loss"]
    return done.result.personal, {record.adversary: record.auc.value for record in records}


def add(rows: Rows, name: str, mean: float, worst: float, found: float) -> None:
    """Add the figures of one seed."""
    row = rows.setdefault(name, {"mean": [], "worst": [], "auc": []})
    for figure, value in (("mean", mean), ("worst", worst), ("auc", found)):
        row[figure].append(value)


def table(overrides: Sequence[str], seeds: int) -> Rows:
    """The figures of each method, over seeds."""
    rows: Rows = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as kept:
            settings = (*COMMON, *overrides, f"seed={seed}")
            # Without a pull towards the global model, Ditto's models are those of clients that train alone.
            of, auc = measured(settings, '{kind="ditto",strength=0.0}', Path(kept) / "alone")
            add(rows, ALONE, of.mean["own"], of.worst["own"], auc["recipient"])
            add(rows, GLOBAL, of.mean["global"], of.worst["global"], auc["external"])
            for name, algorithm in METHODS.items():
                of, auc = measured(settings, algorithm, Path(kept) / name)
                add(rows, name, of.mean["own"], of.worst["own"], auc["recipient"])
    return rows


def shown(values: Sequence[float]) -> str:
    """A mean in per cent with its 95 % interval over the seeds (Student's t)."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{100 * np.mean(values):.1f} ± {100 * half:.1f}"


def columns(rows: Rows) -> Mapping[str, Mapping[str, str]]:
    """The table, with a column for each figure."""
    titles = {"mean": "mean client, %", "worst": "worst client, %", "auc": "AUC of the attack, %"}
    return {title: {name: shown(row[figure]) for name, row in rows.items()} for figure, title in titles.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write the figures."""
    asked = options(__doc__ or "", argv)
    tasks = {"digits": QUICK} if asked.quick else {"heart disease": HEART, "Fashion-MNIST": FASHION}
    seeds = 1 if asked.quick else 3
    flat: Figures = {"seeds": seeds}
    for task, overrides in tasks.items():
        rows = table(overrides, seeds)
        for name, row in rows.items():
            flat |= {f"{task}.{name}.{figure}": float(np.mean(values)) for figure, values in row.items()}
        if asked.json is None:
            print_table(f"Accuracy on the clients' own held-out examples, {task}", columns(rows))
    if asked.json is not None:
        write_json(asked.json, flat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
