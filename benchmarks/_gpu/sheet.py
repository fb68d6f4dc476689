"""Figures with their provenance and Markdown tables, kept on disk as they grow, within a time that is given."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _harness import Sample

from privfl.running.recording import environment

SEED = 0


@dataclass
class Sheet:
    """All that a call of ``bench_gpu.py`` finds.

    device: the device that is measured.
    ends: the time of ``time.monotonic`` after which nothing more is begun.
    quick: whether small sizes are enough.
    json: the file that the figures go to after every one of them, so that an end by force loses none.
    """

    device: torch.device
    ends: float
    quick: bool
    json: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether this is no trial on a CPU."""
        return self.device.type == "cuda"

    @property
    def seconds_left(self) -> float:
        """Seconds until nothing more is begun."""
        return self.ends - time.monotonic()

    @property
    def device_name(self) -> str:
        """The card's name, or that of the CPU."""
        return torch.cuda.get_device_name(self.device) if self.on_gpu else "the CPU"

    def has_time(self, name: str) -> bool:
        """Whether there is time to begin that; if not, its name is written down and said."""
        if self.seconds_left > 0:
            return True
        self.left_out.append(name)
        print(f"\n{name}: not begun, the time is over")
        self._write()
        return False

    def add(self, name: str, value: Sample | float | str | Sequence[str] | dict[str, Any]) -> None:
        """One figure more; of a sample its median, its interquartile range and its repeats."""
        if isinstance(value, Sample):
            value = {"median": value.median, "iqr": value.spread, "repeats": len(value.values_R)}
        self.figures[name] = value
        self._write()

    def table(self, title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table in Markdown."""
        lines = [heads, ["---"] * len(heads), *([_cell(one) for one in row] for row in rows)]
        print(f"\n**{title}**\n", *(f"| {' | '.join(line)} |" for line in lines), sep="\n", flush=True)

    def _write(self) -> None:
        if self.json is None:
            return
        found = {
            "machine": environment(self.device).model_dump(),
            "cuda": torch.version.cuda,
            "device": self.device_name,
            "seed": SEED,
            "quick": self.quick,
            "left_out": self.left_out,
            "figures": self.figures,
        }
        self.json.write_text(json.dumps(found, indent=1) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, Sample):
        return f"{value:.3g}"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
