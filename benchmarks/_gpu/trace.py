"""A trace of one round as text: kernels, launches, the share of the time that the device works, lines that wait for it.

On a CPU, to try it, the outermost operations of PyTorch take the place of kernels.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from _engines import Work, cases
from _harness import interleaved
from torch.profiler import ProfilerActivity, profile

from _gpu.ceilings import ready
from _gpu.sheet import Sheet

Event = dict[str, Any]
"""One event of a Chrome trace: ``ts`` and ``dur`` in microseconds, ``cat``, ``name``, ``args``."""

ON_CARD = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver")
LAUNCHES = ("LaunchKernel", "MemcpyAsync", "MemsetAsync", "GraphLaunch")
WAITS = ("Synchronize", "cudaMemcpy")
LONGEST = 15


def trace(sheet: Sheet, clients: int) -> None:
    """Trace a round of the cnn with privacy and without, then of the other models in figures alone."""
    models = ("cnn",) if sheet.quick else ("cnn", "mlp", "resnet8")
    for model in models:
        for way in ("fused", "fused_nonprivate"):
            name = f"{model}, {way}, {clients} clients"
            if sheet.has_time(f"trace of {name}"):
                run = cases(Work(model, clients), [way], sheet.device)[way]
                _one(sheet, name, run, in_detail=model == "cnn")


def _one(sheet: Sheet, name: str, run: Callable[[], object], *, in_detail: bool) -> None:
    wall = interleaved({"it": run}, 3 if sheet.quick else 15, lambda: ready(sheet.device))["it"].times(1e3)
    events = traced(run, sheet.device, stacks=False)
    found = {"ms a round": wall.median, **summary(events, sheet.device, wall.median)}
    sheet.add(f"trace: {name}", found)
    sheet.table(f"Trace: {name}, {sheet.device_name}", ("figure", "value"), found.items())
    if not in_detail:
        return
    kernels = _ranked((one["name"], one["dur"]) for one in on_device(events, sheet.device))
    sheet.table(f"{name}: by kernel", ("ms", "times", "kernel"), kernels)
    lines = _ranked(launched(traced(run, sheet.device, stacks=True), sheet.device))
    sheet.table(f"{name}: by the line that launched", ("ms", "times", "line"), lines)
    if sheet.on_gpu:
        waits = waiting_lines(run)
        sheet.add(f"trace: {name}, lines that wait", dict(waits))
        sheet.table(f"{name}: lines that wait for the device", ("times", "line"), [(count, line) for line, count in waits])


def _ranked(pairs: Iterable[tuple[str, float]]) -> list[tuple[float, int, str]]:
    """Milliseconds and count of each name, the longest first."""
    took, counts = defaultdict[str, float](float), Counter[str]()
    for name, microseconds in pairs:
        took[name] += microseconds / 1e3
        counts[name] += 1
    longest = sorted(took, key=lambda name: -took[name])[:LONGEST]
    return [(took[name], counts[name], name[:120]) for name in longest]


def traced(run: Callable[[], object], device: torch.device, *, stacks: bool) -> list[Event]:
    """The events of one round; ``stacks``: with the lines of Python, whose recording takes time of its own."""
    ready(device)
    gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *gpu], with_stack=stacks) as kept:
        run()
        ready(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        kept.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)["traceEvents"]
    return [one for one in events if one.get("ph") == "X" and "dur" in one]


def summary(events: list[Event], device: torch.device, wall: float) -> dict[str, Any]:
    """The figures of a round that took ``wall`` milliseconds without the profiler."""
    card = on_device(events, device)
    calls = Counter(one["name"] for one in events if one.get("cat") in CALLS)
    busy = covered((one["ts"], one["ts"] + one["dur"]) for one in card) / 1e3
    copies = Counter(one["name"].split("(")[0].strip() for one in card if one.get("cat") == "gpu_memcpy")
    return {
        "kernels": sum(one.get("cat") in ("kernel", "cpu_op") for one in card),
        "launches": sum(count for name, count in calls.items() if any(word in name for word in LAUNCHES)),
        "ms of the device at work": busy,
        "share of the time that the device works": busy / wall,
        "copies": dict(copies),
        "fillings": sum(one.get("cat") == "gpu_memset" for one in card),
        "waits": {name: count for name, count in calls.items() if name.endswith(WAITS)},
    }


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def nested(events: list[Event]) -> Iterator[tuple[Event, list[Event]]]:
    """Every event on the host with those that enclose it, the outermost first."""
    threads: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        if event.get("cat") in ("cpu_op", "python_function", *CALLS):
            threads[event["pid"], event["tid"]].append(event)
    for there in threads.values():
        stack: list[Event] = []
        for event in sorted(there, key=lambda one: (one["ts"], -one["dur"])):
            while stack and stack[-1]["ts"] + stack[-1]["dur"] <= event["ts"]:
                stack.pop()
            yield event, list(stack)
            stack.append(event)


def on_device(events: list[Event], device: torch.device) -> list[Event]:
    """The events of the card; on a CPU the outermost operations."""
    if device.type == "cuda":
        return [one for one in events if one.get("cat") in ON_CARD]
    return [one for one, stack in nested(events) if _is_aten(one) and not any(map(_is_aten, stack))]


def launched(events: list[Event], device: torch.device) -> Iterator[tuple[str, float]]:
    """The line that launched each kernel, and the kernel's microseconds."""
    card = on_device(events, device)
    ran = {one["args"]["correlation"]: one for one in card if "correlation" in one.get("args", {})}
    itself = {id(one) for one in card}
    for event, stack in nested(events):
        if id(event) in itself:
            yield _line([*stack, event]), event["dur"]
        elif event.get("cat") in CALLS and event.get("args", {}).get("correlation") in ran:
            yield _line(stack), ran[event["args"]["correlation"]]["dur"]


def _line(stack: list[Event]) -> str:
    """The innermost line of privfl's; in the backward pass, which has none, the outermost operation."""
    for one in reversed(stack):
        if one.get("cat") == "python_function" and "privfl/" in one["name"]:
            return str(one["name"][one["name"].rindex("privfl/") :])
    operations = _operations(stack)
    return f"without a line of privfl's: {operations[0]['name']}" if operations else "without a line of privfl's"


def _is_aten(event: Event) -> bool:
    return event.get("cat") == "cpu_op" and str(event["name"]).startswith("aten::")


def _operations(stack: list[Event]) -> list[Event]:
    return [one for one in stack if one.get("cat") == "cpu_op"]


def waiting_lines(run: Callable[[], object]) -> list[tuple[str, int]]:
    """The lines in which the host waits for the card within a round, and how often; for CUDA alone."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchroniz" in str(one.message)]
    return Counter(f"{one.filename[max(0, one.filename.rfind('privfl/')) :]}:{one.lineno}" for one in waits).most_common()
