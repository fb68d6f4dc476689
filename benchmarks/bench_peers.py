"""What do Apple's pfl, Flower and FedJAX take for the benchmark task, those of them that are installed, and what does privfl?

The part of ``bench_training.py`` that runs peers, alone: ``_peers.py`` says what everybody is given and what counts, and each
``_peer_<name>.py`` how the peer is run and what of it is left out. One thread, processor time of this process.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import torch
from _harness import figures, options, print_table, write_json
from _peers import compare_all, print_comparison

from privfl.learning.training._memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write the figures."""
    asked = options(__doc__ or "", argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()
    measured, flat = compare_all(quick=asked.quick)
    if asked.json is not None:
        for name, runs in measured.items():
            for peer, run in runs.items():
                flat |= figures(f"{peer}.{name}", {"cpu_s": run.seconds, "accuracy": run.accuracy})
        write_json(asked.json, flat)
        return 0
    print_comparison(measured)
    print_table("figures", {"": {name: f"{value:.3f}" for name, value in flat.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
