"""What every benchmark shares: interleaved timing, medians with their spread, a table, and ``--quick`` and ``--json``."""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Figures = dict[str, float]
"""Named figures; a name ends in its unit."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    quick: bool
    json: Path | None
    picture: Path | None = None


def options(question: str, argv: Sequence[str] | None = None, *, picture: bool = False) -> Options:
    """Parse ``[--quick] [--json FILE]``, and ``[--picture FILE]`` if the benchmark draws one."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats, within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one flat object of named figures instead of a table")
    if picture:
        parser.add_argument("--picture", type=Path, metavar="FILE", help="write a picture as well")
    return Options(**vars(parser.parse_args(argv)))


@dataclass(frozen=True)
class Sample:
    """One figure, measured R times."""

    values_R: NDArray[np.float64]

    @property
    def median(self) -> float:
        """The median."""
        return float(np.median(self.values_R))

    @property
    def spread(self) -> float:
        """The interquartile range."""
        low, high = np.percentile(self.values_R, (25, 75))
        return float(high - low)

    def times(self, factor: float) -> Sample:
        """In another unit."""
        return Sample(self.values_R * factor)

    def over(self, other: Sample) -> Sample:
        """The ratio to another figure, repeat by repeat, so that a slow moment of the machine hits both."""
        return Sample(self.values_R / other.values_R)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ± {self.spread / 2:{spec}}"


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Sample]:
    """Seconds of every case, after one warm-up; by the wall clock, or by another where only this process should count.

    Each repeat runs all cases, beginning with another one each time: drift and neighbours hit all of them alike.
    ``warm_up``: what is run once before, instead of the cases themselves.
    """
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        (warm_up or cases)[name]()
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            begun = clock()
            cases[name]()
            seconds[name].append(clock() - begun)
    return {name: Sample(np.array(taken)) for name, taken in seconds.items()}


def peak_mib() -> float:
    """The largest amount of memory that this process has had.

    On Linux the kernel's figure for the address space: that of ``getrusage`` is inherited from whoever started the process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def figures(prefix: str, samples: Mapping[str, Sample]) -> Figures:
    """Median and interquartile range of each sample, under flat names."""
    flat: Figures = {}
    for name, sample in samples.items():
        flat[f"{prefix}_{name}"], flat[f"{prefix}_{name}_iqr"] = sample.median, sample.spread
    return flat


def write_json(path: Path, flat: Figures) -> None:
    """One flat object."""
    path.write_text(json.dumps(flat, indent=1) + "\n")


def print_table(title: str, columns: Mapping[str, Mapping[str, str]]) -> None:
    """A column for each case; every case has the same rows."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for head in columns:
        table.add_column(head, justify="right")
    for row in next(iter(columns.values())):
        table.add_row(row, *(column[row] for column in columns.values()))
    console = Console()
    # Into a file or a pipe, a table is never folded.
    Console(width=None if console.is_terminal else 200).print(table)
