"""How many images does an imprint take out of one update, and out of a secure sum?

Ten clients with 64 images of Fashion-MNIST each take one local step on all of them. The malicious server's model sorts images
into k bins (Fowl et al. 2022). n(1 − 1/k)^(n−1) of n images are expected to be alone in a bin, which are those that it gets
exactly: of 64 for each update, and of all 640 for the sum. An image is exact at a PSNR of 60 dB. ``imprint_over_formula`` is
the number over all ten updates as a share of the formula's, ``secure_sum_imprint_share`` the share of the 640 images that the
secure sum of all clients gives away. The noise is added by clients to each example's gradient, with a norm of 1. Five runs
(``--quick``: one) have different images.

    python benchmarks/bench_malicious_server.py [--quick] [--json FILE]
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from _harness import Figures, options, write_json
from rich.console import Console
from rich.progress import track
from rich.table import Table

from privfl.auditing.questions.reconstruction import ReconstructionFinding, ReconstructionRecord
from privfl.errors import DataError
from privfl.loading import loads
from privfl.running.attacking import attack
from privfl.running.recording import run

IMPRINT: Final = "reconstruction/imprint"
CLIENTS: Final = 10
IMAGES: Final = 64
BINS: Final = (64, 256, 1024)
NOISE: Final = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""Noise multipliers."""


def main() -> None:
    """Parse the arguments, train, attack, print or write."""
    chosen = options("How many images does an imprint take out of one update, and out of a secure sum?")
    seeds = 1 if chosen.quick else 5
    try:
        figures = measured(seeds, quick=chosen.quick)
    except DataError as error:
        raise SystemExit(f"{error}") from None
    if chosen.json:
        write_json(chosen.json, figures)
    else:
        show(figures)


def measured(seeds: int, *, quick: bool) -> Figures:
    """The figures, as means over runs."""
    bins, noise = (BINS[1:2], NOISE[1::2]) if quick else (BINS, NOISE)
    rows: dict[str, list[float]] = {}
    for seed in track(range(seeds), description="runs", console=Console(stderr=True)):
        for k in bins:
            one = attacked(seed, k)
            rows.setdefault(f"imprint_{k}_exact", []).append(exact(one))
        one = attacked(seed, BINS[-1], aggregator={"kind": "secure_sum"})
        rows.setdefault("secure_sum_imprint_exact", []).append(exact(one))
        for sigma in noise if not seed else ():
            privacy = {"kind": "example", "noise_multiplier": sigma, "delta": 1e-4, "max_grad_norm": 1.0}
            one = attacked(seed, BINS[1], privacy=privacy)
            rows.setdefault(f"imprint_noise_{sigma}_psnr", []).append(one.measures[0].median.value)
            rows.setdefault(f"imprint_noise_{sigma}_exact", []).append(exact(one))
            rows.setdefault("chance_psnr", []).append(one.measures[0].chance)
    figures = {name: float(np.mean(values)) for name, values in rows.items()}
    for k in bins:
        mean, sd = alone(IMAGES, k)
        figures[f"imprint_{k}_formula"] = CLIENTS * mean
        figures[f"imprint_{k}_sds"] = (figures[f"imprint_{k}_exact"] - CLIENTS * mean) / (sd * math.sqrt(CLIENTS / seeds))
    mean, sd = alone(CLIENTS * IMAGES, BINS[-1])
    figures |= {"secure_sum_imprint_formula": mean, "secure_sum_imprint_share_formula": mean / (CLIENTS * IMAGES)}
    figures["secure_sum_imprint_sds"] = (figures["secure_sum_imprint_exact"] - mean) / (sd / math.sqrt(seeds))
    figures["secure_sum_imprint_share"] = figures["secure_sum_imprint_exact"] / (CLIENTS * IMAGES)
    figures["imprint_over_formula"] = float(
        np.mean([figures[f"imprint_{k}_exact"] / figures[f"imprint_{k}_formula"] for k in bins])
    )
    return figures


def alone(n: int, k: int) -> tuple[float, float]:
    """Mean and standard deviation of how many of n are alone, if each falls into one of k bins."""
    mean = n * (1 - 1 / k) ** (n - 1)
    pairs = n * (n - 1) * (1 - 1 / k) * (1 - 2 / k) ** (n - 2)
    return mean, math.sqrt(pairs + mean - mean**2)


def attacked(seed: int, k: int, **changes: Mapping[str, Any]) -> ReconstructionRecord:
    """A run, and what the imprint claims to have got of it."""
    config = {
        "name": "imprint",
        "seed": seed,
        "rounds": 1,
        "data": {"kind": "_federated.images", "block": seed, "clients": CLIENTS, "holdout": 0.0},
        "model": {"kind": "mlp", "hidden": [k]},
        "cohort": {"kind": "all"},
        "training": {"local_steps": 1, "batch_size": IMAGES, "lr": 0.1},
        "privacy": {"kind": "none"},
        "aggregator": {"kind": "mean"},
        "server": {"kind": "fedavg"},
        "attacks": {"run": [], "shadow_models": 0},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = run(loads({**config, **changes}), Path(place) / "run")
        (finding,) = attack(folder, [IMPRINT])
    assert isinstance(finding, ReconstructionFinding)
    return finding.attacks[0]


def exact(record: ReconstructionRecord) -> float:
    """How many images came out exactly."""
    assert record.exact is not None
    return float(round(record.exact.value * record.exact.n))


def show(figures: Figures) -> None:
    """Counts beside the formula's, and the noise."""
    table = Table("", "exact images of 640", "formula", "off by, in standard deviations")
    names = {f"single updates, {k} bins": f"imprint_{k}" for k in BINS} | {f"secure sum, {BINS[-1]} bins": "secure_sum_imprint"}
    for title, name in names.items():
        if f"{name}_exact" in figures:
            cells = (f"{figures[f'{name}_exact']:.1f}", f"{figures[f'{name}_formula']:.1f}", f"{figures[f'{name}_sds']:+.1f}")
            table.add_row(title, *cells)
    console = Console()
    console.print(table)
    noisy = Table("noise multiplier", "median PSNR, dB", "exact images of 640")
    for sigma in NOISE:
        if f"imprint_noise_{sigma}_psnr" in figures:
            noisy.add_row(
                str(sigma), f"{figures[f'imprint_noise_{sigma}_psnr']:.1f}", f"{figures[f'imprint_noise_{sigma}_exact']:.0f}"
            )
    console.print(noisy)
    console.print(f"chance: a median PSNR of {figures['chance_psnr']:.1f} dB")
    for name in ("imprint_over_formula", "secure_sum_imprint_share"):
        console.print(f"{name} {figures[name]:.3f}")


if __name__ == "__main__":
    main()
