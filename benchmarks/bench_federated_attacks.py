"""Do the attacks on a federation's rounds find what a reference implementation found?

The reference: Fashion-MNIST ``train[:4000]``, 10 clients of 400 examples, each trained on by the throw of a fair coin, an MLP
784-64-10, 20 rounds of FedAvg with everybody, local SGD with lr 0.05 and batches of 20, for 1 and for 5 local epochs. The AUC
is the mean over clients, the TPR at an FPR of 1 % is that of all candidates together. The reference has one run of 1 epoch and
two of 5. Here there are five of each, and a figure agrees when the reference is within two standard deviations (over runs) of
the mean. ``--quick`` has one run of 5 rounds: it shows that the benchmark works and is not the reference.

    python benchmarks/bench_federated_attacks.py [--quick] [--json FILE]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from _harness import Figures, options, write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from privfl.auditing import auc, roc
from privfl.auditing.questions.source import SourceFinding
from privfl.errors import DataError
from privfl.loading import loads
from privfl.running.attacking import attack
from privfl.running.recording import run
from privfl.storage import read_npz

Reference = tuple[float, float]
"""AUC, and TPR at an FPR of 1 %."""

REFERENCE: Final[dict[str, tuple[Reference | None, tuple[Reference, ...]]]] = {
    "loss: loss": ((0.527, 0.008), ((0.549, 0.009), (0.536, 0.008))),
    "loss_drop: drop": ((0.611, 0.032), ((0.671, 0.052), (0.699, 0.082))),
    "gradient_cosine: cosine": ((0.620, 0.031), ((0.671, 0.066), (0.700, 0.071))),
    "inner_product: inner product": ((0.632, 0.047), ((0.696, 0.095),)),
    "gradient_difference: scaled": ((0.640, np.nan), ((0.588, np.nan),)),
    "fedmia: I": ((0.618, 0.032), ((0.667, 0.086), (0.686, 0.087))),
    "fedmia: I, z": (None, ()),
    "fedmia: II": ((0.614, 0.036), ((0.650, 0.076), (0.675, 0.058))),
    "fedmia: II, z": (None, ()),
    "gradient_cosine_sum: cosine": ((0.538, 0.013), ((0.573, 0.007), (0.559, 0.012))),
    "global_loss_drop: drop": (None, ()),
    "loss_over_rounds: mean": (None, ()),
    "loss_over_rounds: slope": (None, ()),
    "loss_over_rounds: fall": (None, ()),
    "which_update: log-ratio": (None, ()),
    "lira_per_client: BaVarIA-t": (None, ()),
    "lira_per_client: fixed variance": (None, ()),
}
"""By attack and variant: after 1 epoch, and each of the runs of 5 epochs; None and () if the reference does not have it."""

SOURCE: Final = {1: (0.184,), 5: (0.275, 0.285)}
"""By local epochs: the share of members whose client is named, from all rounds; guessing finds a tenth."""

ATTACKS: Final = ["inference/source", *sorted({f"membership/{name.partition(':')[0]}" for name in REFERENCE})]
SIMULATING: Final = ("membership/lira_per_client", "membership/which_update")
"""Those that train models of their own or solve for the others' covariance, and cost as much as several runs."""
METRICS: Final = ("auc", "tpr_at_1pct")


def main() -> None:
    """Parse the arguments, train, attack, print or write."""
    chosen = options("Do the attacks on a federation's rounds find what a reference implementation found?")
    rounds, seeds = (5, 1) if chosen.quick else (20, 5)
    figures: Figures = {"rounds": float(rounds), "runs": float(seeds)}
    try:
        for epochs in (1, 5):
            figures |= measured(epochs, rounds, seeds)
    except DataError as error:
        raise SystemExit(f"{error}") from None
    if chosen.json:
        write_json(chosen.json, figures)
    else:
        show(figures, quick=chosen.quick)


def configuration(epochs: int, rounds: int, seed: int) -> dict[str, Any]:
    """One run of the reference."""
    return {
        "name": "federated",
        "seed": seed,
        "rounds": rounds,
        "data": {"kind": "fashion_mnist", "train_size": 4000, "clients": 10, "holdout": 0.5},
        "model": {"kind": "mlp", "hidden": [64]},
        "cohort": {"kind": "all"},
        "training": {"local_epochs": epochs, "batch_size": 20, "lr": 0.05},
        "evaluation": {"every": rounds},
        "privacy": {"kind": "none"},
        "aggregator": {"kind": "mean"},
        "server": {"kind": "fedavg"},
        "attacks": {"run": [], "shadow_models": 0},
    }


def measured(epochs: int, rounds: int, seeds: int) -> Figures:
    """Mean and standard deviation over runs of each metric of each variant, and the seconds of training and of attacks."""
    rows: dict[str, list[float]] = {}
    for seed in track(range(seeds), description=f"{epochs} local epochs", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as place:
            began = time.process_time()
            folder = run(loads(configuration(epochs, rounds, seed)), Path(place) / "run")
            trained = time.process_time()
            findings = attack(folder, [name for name in ATTACKS if name not in SIMULATING])
            attacked = time.process_time()
            attack(folder, SIMULATING)
            spent = {
                "training_cpu_seconds": trained - began,
                "attacks_cpu_seconds": attacked - trained,
                "simulating_attacks_cpu_seconds": time.process_time() - attacked,
            }
            who = read_npz(folder.path / "membership.npz")
            member_N, owner_N = (who[name][who["candidate_N"]] for name in ("member_N", "owner_N"))
            for name in REFERENCE:
                kind, _, variant = name.partition(": ")
                scores_N = read_npz(folder.path / "attacks" / "membership" / f"{kind}.npz")[f"membership/{kind}: {variant}"]
                for metric, value in metrics(scores_N, member_N, owner_N).items():
                    rows.setdefault(figure_name(name, epochs, metric), []).append(value)
        (named,) = [one.attacks[0] for one in findings if isinstance(one, SourceFinding)]
        rows.setdefault(f"federated.source_{epochs}_epochs.right", []).append(named.right.value)
        for name, value in spent.items():
            rows.setdefault(f"federated.{name}_{epochs}_epochs", []).append(value)
    return {
        f"{name}{suffix}": float(value)
        for name, values in rows.items()
        for suffix, value in (("", np.mean(values)), ("_sd", np.std(values, ddof=1) if len(values) > 1 else 0.0))
    }


def metrics(scores_N: NDArray[np.float64], member_N: NDArray[np.bool_], owner_N: NDArray[np.int64]) -> Figures:
    """The mean over clients of the AUC, and the TPR of all candidates."""
    own = [auc(scores_N[owner_N == client], member_N[owner_N == client]).value for client in np.unique(owner_N)]
    curve = roc(scores_N, member_N)
    return {"auc": float(np.mean(own)), "tpr_at_1pct": float(curve.tpr_T[curve.at(0.01)])}


def figure_name(name: str, epochs: int, metric: str) -> str:
    """Such as ``federated.fedmia_i_z_5_epochs.auc``."""
    words = name.replace(":", "").replace(",", "").replace(" ", "_").lower()
    return f"federated.{words}_{epochs}_epochs.{metric}"


def show(figures: Figures, *, quick: bool) -> None:
    """Measured mean (sd over runs), the reference, and whether they agree."""
    title = "QUICK: not the reference's rounds and runs" if quick else "mean (sd over runs) | reference"
    columns = [f"{epochs} local epochs: {metric}" for epochs in (1, 5) for metric in METRICS]
    table, outside, compared = Table("attack", *columns, title=title), 0, 0
    for name, (once, five) in REFERENCE.items():
        cells = []
        for epochs, references in ((1, () if once is None else (once,)), (5, five)):
            for place, metric in enumerate(METRICS):
                known = [one[place] for one in references if not np.isnan(one[place])]
                cell, far = compare(figures, figure_name(name, epochs, metric), known)
                cells.append(cell if not quick else cell.partition(" |")[0])
                compared, outside = compared + bool(known), outside + far
        table.add_row(name, *cells)
    console = Console(width=190)
    console.print(table)
    for epochs in (1, 5):
        cell, far = compare(figures, f"federated.source_{epochs}_epochs.right", SOURCE[epochs])
        compared, outside = compared + 1, outside + far
        console.print(f"{epochs} local epochs: the client of a member is named rightly {cell}")
        names = ("training", "attacks", "simulating_attacks")
        spent = [figures[f"federated.{name}_cpu_seconds_{epochs}_epochs"] for name in names]
        console.print(
            f"{epochs} local epochs: training {spent[0]:.1f} s CPU, {spent[1]:.1f} s CPU for all attacks that read the rounds, "
            f"{spent[2]:.1f} s CPU for those that simulate"
        )
    if not quick:
        console.print(f"{outside} of {compared} figures outside two standard deviations")


def compare(figures: Figures, name: str, known: Sequence[float]) -> tuple[str, bool]:
    """A figure beside the reference's, and whether one of those is more than two standard deviations away."""
    mean, sd = figures[name], figures[f"{name}_sd"]
    far = any(abs(mean - one) > 2 * sd for one in known)
    verdict = "" if not known else " OUTSIDE" if far else " ok"
    return f"{mean:.3f} ({sd:.3f}) | {', '.join(f'{one:.3f}' for one in known)}{verdict}", far


if __name__ == "__main__":
    main()
