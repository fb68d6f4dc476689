"""Run folders of one seed compared: twice on the device, and on the device and on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from _gpu.sheet import SEED, Sheet
from privfl.loading import load
from privfl.running.recording import run

ROOT = Path(__file__).parents[2]
NEVER_REPEATED = ("timings.jsonl", "environment.json", "config.toml", ".lock", "transcripts/*", "figures/*", "report.html")
"""Files with seconds, versions, the device's name or fresh keys in them, as patterns."""


def compare(sheet: Sheet, clients: int) -> None:
    """Compare whole runs on digits, which come with scikit-learn."""
    if not sheet.has_time("comparison of devices"):
        return
    few = [f"rounds={2 if sheet.quick else 10}", f"data.clients={max(5, clients)}", "attacks.run=[]", f"seed={SEED}"]
    ways = {
        "one": (sheet.device.type, []),
        "two": (sheet.device.type, []),
        "plain": (sheet.device.type, ["privacy=none"]),
        "cpu": ("cpu", ["privacy=none"]),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for way, (device, more) in ways.items():
            run(load(ROOT / "paper_configs/digits.toml", f"device={device}", *few, *more), folder / way)
        again = differences(folder / "one", folder / "two")
        across = differences(folder / "plain", folder / "cpu")
        compared = len(repeatable(folder / "one"))
    sheet.add("two private runs on the device, files that differ", again)
    sheet.add("device and CPU without noise, files that differ", across)
    sheet.table(
        f"Runs of one seed on digits, {sheet.device_name}",
        ("runs", "files compared", "files that differ, and how far"),
        [
            ("private, twice on the device", compared, _said(again)),
            ("without privacy, on the device and on the CPU", compared, _said(across)),
        ],
    )


def _said(found: dict[str, str]) -> str:
    return "; ".join(f"{name}: {far}" for name, far in found.items()) or "none"


def repeatable(folder: Path) -> dict[str, Path]:
    """The files of a run that its seed repeats, by their names in the folder."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in files.items() if not any(name.match(one) for one in NEVER_REPEATED)}


def differences(one: Path, other: Path) -> dict[str, str]:
    """How far each file of a run is from that of another run, by name, unless they are the same bytes."""
    here, there = repeatable(one), repeatable(other)
    found = {}
    for name in sorted(here.keys() | there.keys()):
        if name not in here or name not in there:
            found[name] = "is in one run only"
        elif here[name].read_bytes() != there[name].read_bytes():
            found[name] = how_far(here[name], there[name])
    return found


def how_far(one: Path, other: Path) -> str:
    """The largest relative difference of two files' tensors or numbers, and the entry that has it."""
    here, there = dict(_numbers(one)), dict(_numbers(other))
    if not here or here.keys() != there.keys() or any(here[key].shape != there[key].shape for key in here):
        return "not of the same form"
    off = {key: _relative(here[key], there[key]) for key in here}
    worst = max(off, key=lambda key: off[key])
    return f"{off[worst]:.2g} ({worst})" if off[worst] else "the same numbers"


def _relative(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """‖one − other‖ / ‖other‖."""
    off = float(np.linalg.norm(one - other))
    return off / (float(np.linalg.norm(other)) or 1.0) if off else 0.0


def _numbers(path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    if path.suffix == ".safetensors":
        for name, value in load_file(path).items():
            yield name, value.astype(np.float64).ravel()
    elif path.suffix in (".json", ".jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text(encoding="utf-8")]
        for number, line in enumerate(lines):
            yield from _leaves(f"{number}" if len(lines) > 1 else "", json.loads(line))


def _leaves(place: str, value: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(f"{place}.{key}".lstrip("."), inner)
    elif isinstance(value, int | float):
        yield place, np.array([value], dtype=np.float64)
