"""What does it cost to train a cohort, with privacy and without, and how do other ways to do it compare?

A round of local training (two steps of batch 32 at each client, Poisson-sampled where it is private) for cohorts of 10, 50
and 200, and central DP-SGD as one client with batches of 512: by a plain loop of PyTorch over preloaded tensors, by
Opacus one client after another, by the fused engine, and by vmap. Then a whole run of the benchmark task, and how much of
it is not training; and the same task by Apple's pfl, by Flower and by FedJAX, those of them that are installed
(``_peers.py`` says what they are given; ``bench_peers.py`` is that part alone). All on one thread, in seconds of this
process, so that neighbours on the machine do not count.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from collections.abc import Sequence

import torch
from _engines import MODELS, Work, cases
from _harness import Figures, Sample, figures, interleaved, options, peak_mib, print_table, write_json
from _peers import compare_all, print_comparison
from _processes import two_process_speedup
from _task import outside_training_share

from privfl.learning.training._memory import keep_freed_memory

WAYS = ("plain", "plain_channels_last", "fused_nonprivate", "fused", "opacus", "vmap")
QUICK_WAYS = ("plain", "fused_nonprivate", "fused", "opacus")
CROWD = Work("cnn", clients=1000)
CENTRAL = Work("cnn", clients=1, batch=512, steps=2)


def works(quick: bool) -> list[Work]:
    """What is measured. A CNN that vmap runs for 200 clients at once does not fit into a small machine."""
    if quick:
        return [Work("mlp", 50), Work("cnn", 50)]
    return [Work(model, clients) for model in MODELS for clients in (10, 50, 200)]


def measure(work: Work, ways: Sequence[str], repeats: int) -> dict[str, Sample]:
    """Milliseconds of a round in each way."""
    return {name: taken.times(1e3) for name, taken in interleaved(cases(work, ways), repeats, time.process_time).items()}


def added_mib(work: Work, way: str) -> float:
    """What a round adds to the peak memory of a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_added_mib, (work, way))


def _added_mib(work: Work, way: str) -> float:
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.simplefilter("ignore")
    run = cases(work, [way])[way]
    before = peak_mib()
    run()
    return peak_mib() - before


def ratios(measured: dict[str, dict[str, Sample]], central: dict[str, Sample]) -> Figures:
    """The figures that this engine is held to, each a median of ratios within a repeat."""
    flat: Figures = {}
    for model in ("cnn", "mlp"):
        taken = measured[f"{model}, 50"]
        flat[f"fused_over_plain.{model}"] = taken["fused"].over(taken["plain"]).median
        flat[f"opacus_over_fused.{model}"] = taken["opacus"].over(taken["fused"]).median
        flat[f"plain_over_fused_nonprivate.{model}"] = taken["plain"].over(taken["fused_nonprivate"]).median
    flat["central_fused_over_plain"] = central["fused"].over(central["plain"]).median
    flat["central_opacus_over_fused"] = central["opacus"].over(central["fused"]).median
    return flat


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write the figures."""
    asked = options(__doc__ or "", argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()
    ways, repeats = (QUICK_WAYS, 3) if asked.quick else (WAYS, 7)
    measured = {f"{work.model}, {work.clients}": measure(work, ways, repeats) for work in works(asked.quick)}
    central = measure(CENTRAL, QUICK_WAYS, repeats)
    flat = ratios(measured, central)
    flat["outside_training_share"] = outside_training_share(rounds=3 if asked.quick else 20)
    speedup = two_process_speedup(rounds=2 if asked.quick else 10, repeats=1 if asked.quick else 5)
    flat |= {"two_process_speedup": speedup.median, "two_process_speedup_iqr": speedup.spread}
    side_by_side, ratios_to_peers = compare_all(quick=asked.quick)
    flat |= ratios_to_peers
    if asked.json is not None:
        for name, samples in measured.items():
            flat |= figures(name.replace(", ", "_k"), {f"{way}_ms": sample for way, sample in samples.items()})
        write_json(asked.json, flat)
        return 0
    for model in dict.fromkeys(name.split(", ")[0] for name in measured):
        rows = {work.clients: work for work in works(asked.quick) if work.model == model}
        print_table(f"{model}: ms a round, examples/s, over plain", _columns(rows, measured, peaks=not asked.quick))
    if not asked.quick:
        print(f"1,000 clients of the cnn, private: {added_mib(CROWD, 'fused'):.0f} MiB, the updates and the budget included")
    print_comparison(side_by_side)
    print_table("figures", {"": {name: f"{value:.3f}" for name, value in flat.items()}})
    return 0


def _columns(rows: dict[int, Work], measured: dict[str, dict[str, Sample]], *, peaks: bool) -> dict[str, dict[str, str]]:
    columns: dict[str, dict[str, str]] = {}
    for clients, work in rows.items():
        taken = measured[f"{work.model}, {clients}"]
        for way, sample in taken.items():
            column = columns.setdefault(way, {})
            column[f"{clients} clients, ms"] = f"{sample:.0f}"
            column[f"{clients} clients, examples/s"] = f"{work.examples / sample.median * 1e3:,.0f}"
            column[f"{clients} clients, over plain"] = f"{sample.over(taken['plain']):.2f}"
            if peaks and clients == 50:
                column[f"{clients} clients, MiB"] = f"{added_mib(work, way):.0f}"
    return columns


if __name__ == "__main__":
    sys.exit(main())
