"""What does secure aggregation cost a simulation? Time and bytes of ``secure_sum`` beside the mean in the clear.

How close the protocol is to the machine's limit is another question: ``bench_secagg.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from _harness import Figures, Sample, figures, interleaved, options, print_table, write_json

from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, RoundContext
from privfl.federation.aggregators.mean import Mean
from privfl.federation.aggregators.secure_sum import SecureSum
from privfl.vectors import Layout

CNN = 26_010
QUICK = ((CNN, 10), (1_000_000, 10))
FULL = ((CNN, 10), (CNN, 100), (1_000_000, 10), (1_000_000, 30))


def measure(dimension: int, clients: int, repeats: int) -> dict[str, Sample]:
    """All figures for one size of model and cohort."""
    context = RoundContext(0, torch.zeros(dimension), Layout(("weight",), ((dimension,),)), 100, bytes(32), "bench")
    generator = torch.Generator().manual_seed(0)
    updates = [ClientUpdate(k, 0.01 * torch.randn(dimension, generator=generator), 1.0) for k in range(clients)]
    secure, mean = _Recorder(SecureSum(kind="secure_sum"), updates, context), _Recorder(Mean(kind="mean"), updates, context)
    taken = interleaved({"secure": secure, "mean": mean}, repeats)
    in_the_clear = mean.last.cost.bytes_up
    return {
        "client_ms": Sample(1e3 * secure.client_seconds(repeats)),
        "server_ms": Sample(1e3 * secure.server_seconds(repeats)),
        "per_client_ms": taken["secure"].times(1e3 / clients),
        "mean_per_client_ms": taken["mean"].times(1e3 / clients),
        "secure_over_mean_time": taken["secure"].over(taken["mean"]),
        "upload_expansion": Sample(np.array([secure.last.cost.bytes_up / in_the_clear])),
        "traffic_expansion": Sample(np.array([(secure.last.cost.bytes_up + secure.last.cost.bytes_down) / in_the_clear])),
    }


class _Recorder:
    """An aggregation that can be repeated, and what each repeat gave."""

    def __init__(self, aggregator: Aggregator, updates: list[ClientUpdate], context: RoundContext) -> None:
        self.aggregator, self.updates, self.context = aggregator, updates, context
        self.costs: list[tuple[float, float]] = []

    def __call__(self) -> None:
        self.last: Aggregate = self.aggregator.aggregate(self.updates, self.context)
        self.costs.append((self.last.cost.client_seconds, self.last.cost.server_seconds))

    def client_seconds(self, repeats: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([client for client, _ in self.costs[-repeats:]])

    def server_seconds(self, repeats: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([server for _, server in self.costs[-repeats:]])


def main(argv: Sequence[str] | None = None, sizes: Sequence[tuple[int, int]] | None = None) -> int:
    """Measure, then print or write."""
    chosen = options("What does secure aggregation cost?", argv)
    # The protocol runs on one core; so must what it is held against.
    torch.set_num_threads(1)
    repeats = 7 if chosen.quick else 15
    flat: Figures = {}
    columns: dict[str, dict[str, str]] = {}
    for dimension, clients in sizes or (QUICK if chosen.quick else FULL):
        samples = measure(dimension, clients, repeats)
        flat |= figures(f"d{dimension}_k{clients}", samples)
        columns[f"D = {dimension:,}, K = {clients}"] = _column(samples)
    if chosen.json is not None:
        write_json(chosen.json, flat)
    else:
        print_table("Secure aggregation: median ± half the interquartile range", columns)
    return 0


def _column(samples: dict[str, Sample]) -> dict[str, str]:
    return {
        "a client, ms": f"{samples['client_ms']:.2f}",
        "the server, ms": f"{samples['server_ms']:.2f}",
        "whole round per client, ms": f"{samples['per_client_ms']:.2f}",
        "mean in the clear per client, ms": f"{samples['mean_per_client_ms']:.2f}",
        "secure / mean time": f"{samples['secure_over_mean_time']:.1f}",
        "secure / mean upload": f"{samples['upload_expansion'].median:.4f}",
        "secure / mean upload and download": f"{samples['traffic_expansion'].median:.4f}",
    }


if __name__ == "__main__":
    sys.exit(main())
