"""Do the membership attacks find what a reference implementation found with 8 shadow models, or with none?

The pool is that of ``bench_membership_reference.py`` but for the members: models are complementary pairs, of which one has the
examples that the other has not. Each of the first 13 targets has the 8 models of 4 other pairs as shadows, and never its own
partner. Quantile regression has no shadows and attacks the first 8 targets. A figure agrees if it lies within two standard
deviations (over targets) of the reference. ``--quick`` trains for 10 epochs and attacks 2 targets.

    python benchmarks/bench_membership_budget.py [--quick] [--json FILE]
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import torch
from _harness import Figures, options, write_json
from bench_membership_reference import EXAMPLES, Pool, load_pool, logits, measure, train
from rich.console import Console
from rich.progress import track
from rich.table import Table

from attacks.membership import BoolArray, Evidence, FloatArray, LogitArray, MembershipAttack
from attacks.membership._usual import Usual, margins
from privfl.errors import DataError
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.running.knowledge import LabelledExamples
from privfl.shelves import SHELVES

PAIRS: Final = 9
SHADOWS: Final = 8
TARGETS: Final = 13
QUANTILE_TARGETS: Final = 8

METRICS: Final = ("auc", "tpr_at_1_percent", "tpr_at_1_permille")
# None: there is no reference.
REFERENCE: Final[dict[tuple[str, str], tuple[float | None, ...]]] = {
    ("membership/loss", "loss"): (0.578, 0.010, None),
    ("membership/quantile", "mean and deviation"): (0.629, 0.020, None),
    ("membership/shokri", "per class"): (None, None, None),
    ("membership/lira", "online, fixed variance"): (0.653, 0.059, 0.019),
    ("membership/rmia", "online, gamma 1"): (0.673, 0.084, 0.017),
    ("membership/base", "BASE3"): (0.654, 0.062, 0.013),
    ("membership/bavaria", "t, online"): (0.659, 0.056, 0.015),
    ("membership/joint", "joint prior"): (0.681, 0.088, 0.025),
    ("membership/rank_average", "BASE1 + BaVarIA-t"): (0.681, 0.099, 0.040),
    ("membership/stacked", "stacked"): (0.687, 0.080, 0.013),
}


def main() -> None:
    """Parse the arguments, train, attack, print or write."""
    chosen = options("Do the membership attacks find what a reference implementation found with 8 shadow models, or with none?")
    epochs, targets = (10, 2) if chosen.quick else (50, TARGETS)
    try:
        pool = load_pool()
    except DataError as error:
        raise SystemExit(f"{error}") from None
    half_PN = np.random.default_rng(0).uniform(size=(PAIRS, EXAMPLES)) < 0.5
    member_MN = np.stack([half_PN, ~half_PN], axis=1).reshape(2 * PAIRS, EXAMPLES)
    began = time.perf_counter()
    weights = train(pool.x_NF, pool.y_N, torch.from_numpy(member_MN), epochs)
    trained = time.perf_counter()
    outputs_MNC, population_MPC = (logits(weights, x).numpy() for x in (pool.x_NF, pool.population_PF))
    figures = {
        **attack(pool, outputs_MNC, population_MPC, member_MN, targets),
        "training_seconds": trained - began,
        "attack_seconds": time.perf_counter() - trained,
    }
    if chosen.json:
        write_json(chosen.json, figures)
    else:
        show(figures, quick=chosen.quick)


def attack(pool: Pool, outputs_MNC: LogitArray, population_MPC: LogitArray, member_MN: BoolArray, targets: int) -> Figures:
    """Mean and standard deviation over targets of each metric."""
    items = {name: SHELVES["attacks.run"].find(name) for name, _ in REFERENCE}
    attacks = [one(kind=name) for name, one in items.items() if issubclass(one, MembershipAttack)]
    rows: dict[str, list[float]] = {}
    for target in track(range(targets), description=f"attacking {targets} targets", console=Console(stderr=True)):
        pairs = np.random.default_rng(target).permutation(np.delete(np.arange(PAIRS), target // 2))[: SHADOWS // 2]
        shadows = np.concatenate([2 * pairs, 2 * pairs + 1])
        evidence = Evidence(
            labels_N=pool.y_N.numpy(),
            logits_NC=outputs_MNC[target],
            shadow_logits_SNC=outputs_MNC[shadows],
            shadow_member_SN=member_MN[shadows],
            population_labels_P=pool.population_y_P.numpy(),
            population_logits_PC=population_MPC[target],
            population_shadow_logits_SPC=population_MPC[shadows],
        )
        scores = {one.kind: one.score(evidence) for one in attacks}
        if target < QUANTILE_TARGETS:
            scores["membership/quantile"] = {"mean and deviation": quantile(pool, evidence)}
        for name, variant in REFERENCE:
            if name in scores:
                for metric, value in measure(scores[name][variant], member_MN[target], target).items():
                    rows.setdefault(f"budget.{name.removeprefix('membership/')}.{SHADOWS}.{metric}", []).append(value)
    return {
        f"{name}.{statistic}": value
        for name, values in rows.items()
        for statistic, value in (("mean", float(np.mean(values))), ("sd", float(np.std(values, ddof=1))))
    }


def quantile(pool: Pool, evidence: Evidence) -> FloatArray:
    """The scores of quantile regression on the population."""
    population = LabelledExamples(pool.population_PF, evidence.population_labels_P)
    signal_P = margins(CLASSIFICATION, evidence.population_logits_PC, evidence.population_labels_P)
    usual = Usual(40, population, signal_P)
    candidates = LabelledExamples(pool.x_NF, evidence.labels_N)
    return usual.score(candidates, margins(CLASSIFICATION, evidence.logits_NC, evidence.labels_N))


def show(figures: Figures, *, quick: bool) -> None:
    """Measured mean (sd over targets), the reference, and whether they agree."""
    title = "QUICK: not the reference's epochs and targets" if quick else "mean (sd over targets) | reference"
    table = Table("attack", *METRICS, title=title)
    for (name, variant), references in REFERENCE.items():
        cells = []
        for metric, reference in zip(METRICS, references, strict=True):
            key = f"budget.{name.removeprefix('membership/')}.{SHADOWS}.{metric}"
            mean, sd = figures[f"{key}.mean"], figures[f"{key}.sd"]
            verdict = "" if quick or reference is None else " ok" if abs(mean - reference) <= 2 * sd else " OUTSIDE"
            cells.append(f"{mean:.4f} ({sd:.4f})" + ("" if reference is None else f" | {reference:.4f}{verdict}"))
        table.add_row(f"{name.removeprefix('membership/')}, {variant}", *cells)
    console = Console(width=150)
    console.print(table)
    console.print(f"training {figures['training_seconds']:.0f} s, attacks {figures['attack_seconds']:.0f} s")


if __name__ == "__main__":
    main()
