"""Milliseconds, examples a second and memory of a round in each way to train a cohort, and its share of the card's ceilings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from _engines import Work, cases
from _harness import Sample, interleaved

from _gpu.ceilings import Ceilings, Traffic, ceilings, needed_operations, ready
from _gpu.sheet import Sheet
from privfl.learning.training import LocalResult

WAYS = ("plain", "fused_nonprivate", "fused", "opacus", "opacus_as_it_comes")
ROUNDED = ("fused_tf32", "fused_bfloat16")
MIB, GIGA, TERA = 2**20, 1e9, 1e12


def throughput(sheet: Sheet, clients: int) -> None:
    """Measure the cnn first, so that it is there if time runs out, then the other models and a small cohort."""
    if not sheet.has_time("throughput"):
        return
    card = _card(sheet)
    works = [Work("cnn", clients)]
    if not sheet.quick:
        works += [
            Work("mlp", clients),
            Work("resnet8", clients),
            Work("cnn", max(2, clients // 5)),
            Work("transformer", clients),
        ]
    for number, work in enumerate(works):
        name = f"{work.model}, {work.clients} clients"
        if sheet.has_time(f"throughput of {name}"):
            _measure(sheet, work, name, card, sheet.seconds_left / (len(works) - number))


def _card(sheet: Sheet) -> Ceilings:
    card = ceilings(sheet.device, 1024 if sheet.quick else 8192, 64 * MIB if sheet.quick else 2048 * MIB)
    found = {
        "float32 products, TFLOP/s": card.float32 / TERA,
        "TF32 products, TFLOP/s": card.tf32 / TERA,
        "bandwidth, GB/s": card.bandwidth / GIGA,
        "a launch, µs": card.launch * 1e6,
    }
    sheet.add("ceilings", found)
    sheet.table(f"{sheet.device_name}: ceilings", ("ceiling", "measured"), found.items())
    return card


def _measure(sheet: Sheet, work: Work, name: str, card: Ceilings, seconds: float) -> None:
    """All ways interleaved, as often as the seconds allow; then the shares of the ceilings, and the CPU's updates."""
    ways = cases(work, (*WAYS, *ROUNDED) if work.model == "cnn" else WAYS, sheet.device)
    taken = _interleaved_within(ways, seconds, 3 if sheet.quick else 25, lambda: ready(sheet.device))
    peaks = {way: _added_mib(run, sheet.device) for way, run in ways.items()} if sheet.on_gpu else {}
    sheet.table(
        f"{name}, two steps of batch {work.batch}, {sheet.device_name}",
        ("way", "ms a round", "examples/s", "MiB on the card"),
        [(way, one.times(1e3), work.examples / one.median, peaks.get(way, "-")) for way, one in taken.items()],
    )
    for way, one in taken.items():
        sheet.add(f"{name}, {way}, ms a round", one.times(1e3))
        if way in peaks:
            sheet.add(f"{name}, {way}, MiB on the card", peaks[way])
    figures: dict[str, Sample | float] = {
        "Opacus as it comes over fused": taken["opacus_as_it_comes"].over(taken["fused"]),
        "privfl's Opacus engine over fused": taken["opacus"].over(taken["fused"]),
        "fused over the plain loop": taken["fused"].over(taken["plain"]),
        "private share of throughput": taken["fused_nonprivate"].over(taken["fused"]),
    }
    operations = needed_operations(work)
    for way in ("fused_nonprivate", "fused"):
        with Traffic(sheet.device) as traffic:
            ways[way]()
        took = taken[way].median
        figures[f"{way}: kernels a step"] = traffic.kernels / work.steps
        figures[f"{way}: share of products"] = operations / took / card.float32
        figures[f"{way}: share of bandwidth"] = traffic.moved / took / card.bandwidth
        figures[f"{way}: share of launches"] = traffic.kernels * card.launch / took
    figures["difference from the CPU's updates"] = difference(Work(work.model, 4), "fused_nonprivate", sheet.device)
    for figure, value in figures.items():
        sheet.add(f"{name}, {figure}", value)
    sheet.table(f"{name}: figures", ("figure", "value"), figures.items())


def _interleaved_within(
    ways: Mapping[str, Callable[[], object]], seconds: float, most: int, clock: Callable[[], float]
) -> dict[str, Sample]:
    """Two warm-ups, the second of which says how many repeats fit in the seconds; at least two are measured."""
    for run in ways.values():
        run()
    begun = clock()
    for run in ways.values():
        run()
    each = max(clock() - begun, 1e-9)
    repeats = min(most, max(2, int(seconds / 2 / each)))
    return interleaved(ways, repeats, clock, warm_up=dict.fromkeys(ways, lambda: None))


def _added_mib(run: Callable[[], object], device: torch.device) -> float:
    """The most memory that a round takes beside what lies on the card before it, MiB."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def difference(work: Work, way: str, device: torch.device) -> float:
    """The largest ‖update on the device − update on the CPU‖ / ‖update on the CPU‖ of a client, at the batches of a round."""
    places = (device, torch.device("cpu"))
    here, there = (cast(list[LocalResult], cases(work, [way], place)[way]()) for place in places)
    pairs = zip(here, there, strict=True)
    return max(float((one.delta_D.cpu() - other.delta_D).norm() / other.delta_D.norm()) for one, other in pairs)
