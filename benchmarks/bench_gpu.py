"""How fast is a cohort's private training on a GPU, how far is it from the card's ceilings, and why?

Each part can be named; without a name all are carried out::

    python benchmarks/bench_gpu.py throughput trace compare --seconds 300 --json gpu.json

``compare``: runs of one seed, twice on the device and once on the CPU: the files that differ, and how far.
``throughput``: rounds as in ``bench_training.py``, two steps of batch 32 at each client, Poisson-sampled if they are private:
a plain loop of PyTorch over tensors that lie on the card, the fused engine with privacy and without, privfl's Opacus engine,
and Opacus as it comes. Beside them the card's ceilings, measured in the same call (a product of matrices in float32 and in
TF32, a copy, a launch), and the share of each that a round takes: the largest is the limit.
``trace``: one round as text: kernels, launches, busy share, the lines that launch and those that wait.

The tables are Markdown. ``--device cpu`` tries the file itself. Without a GPU nothing is measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from _gpu.compare import compare
from _gpu.sheet import Sheet
from _gpu.throughput import throughput
from _gpu.trace import trace

from privfl.learning.training._precision import float32_products

PARTS: dict[str, Callable[[Sheet, int], None]] = {"compare": compare, "throughput": throughput, "trace": trace}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, and write the figures if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all unless some are named")
    parser.add_argument("--seconds", type=float, default=300.0, help="nothing is begun after so many seconds")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the file itself")
    parser.add_argument("--clients", type=int, help="clients of a round; 50, and 2 on a CPU")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats, within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures with machine, versions and repeats")
    asked = parser.parse_args(argv)
    if unknown := [part for part in asked.parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here, so nothing was measured; `privfl doctor` shows what it finds")
        return 0
    warnings.simplefilter("ignore")
    # cuBLAS reads it at its first product in this process; runs of one seed need it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    sheet = Sheet(torch.device(asked.device), time.monotonic() + asked.seconds, asked.quick, asked.json)
    chosen = [part for part in PARTS if part in asked.parts or not asked.parts]
    whole = sheet.ends
    # By default the plain loop's and Opacus' convolutions would be rounded, and nobody else's.
    with float32_products():
        for number, part in enumerate(chosen):
            sheet.ends = time.monotonic() + (whole - time.monotonic()) / (len(chosen) - number)
            PARTS[part](sheet, asked.clients or (50 if sheet.on_gpu else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
