"""Does a round cost more as rounds go by, or with more clients, a larger cohort or more parameters? By all but training.

The engine trains nothing, the data are made up; all else is a run as any, of which only the final model's view is kept. Each
case is a process of its own, so that its memory and its processor's seconds are its own. Beside them stand counts that no busy
machine moves: bytes that a round writes, and prices that it has the accountant compute. ``GROWTH`` says how each grows.
"""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import numpy as np
from _harness import Figures, options, peak_mib, print_table, write_json
from _scaling.noise import CLASSES, FEATURES

from privfl.config import ExperimentConfig
from privfl.loading import loads
from privfl.privacy import accounting
from privfl.running import recording

Axis = Literal["rounds", "clients", "cohort", "parameters"]

GROWTH: Final[dict[str, dict[Axis, str]]] = {
    "bytes": {"rounds": "flat", "clients": "flat", "cohort": "linear", "parameters": "linear"},
    "prices": {"rounds": "flat", "clients": "flat", "cohort": "flat", "parameters": "flat"},
}
"""How the bytes that a round writes, and the prices that it computes, grow with each size."""


@dataclass(frozen=True)
class Case:
    """One run: its sizes, and how it aggregates and protects."""

    rounds: int = 20
    clients: int = 1_000
    cohort: int = 20
    parameters: int = 10_000
    secure: bool = False
    private: bool = True

    @property
    def name(self) -> str:
        """``mean``, ``mean_private``, ``secure`` or ``secure_private``."""
        return ("secure" if self.secure else "mean") + ("_private" if self.private else "")

    def at(self, axis: Axis, size: int) -> Case:
        """The same at another size."""
        sizes: dict[str, Any] = {axis: size}
        return replace(self, **sizes)

    def config(self) -> ExperimentConfig:
        """The run; a budget that it does not reach has every round priced before it begins, as well as after it."""
        hidden = max(1, round((self.parameters - CLASSES) / (FEATURES + CLASSES + 1)))
        promise = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 1.0, "delta": 1e-6, "max_epsilon": 1e6}
        return loads(
            {
                "name": "scaling",
                "rounds": self.rounds,
                "device": "cpu",
                "data": {"kind": "_scaling.noise", "clients": self.clients, "holdout": 0.0},
                "model": {"kind": "mlp", "hidden": [hidden]},
                "cohort": {"kind": "poisson", "size": self.cohort},
                "training": {"engine": "_scaling.idle", "local_epochs": 1, "batch_size": 4, "lr": 0.1},
                "privacy": promise if self.private else {"kind": "none"},
                "aggregator": {"kind": "secure_sum" if self.secure else "mean"},
                "server": {"kind": "fedavg"},
                "evaluation": {"every": self.rounds},
                "records": {"views": "final"},
            }
        )


@dataclass
class Measured:
    """What each of R rounds took: all but the first, which comes with the run's beginning, and the last, which is evaluated.

    ``mib`` is the memory beside that of imports, at the peak of all rounds.
    """

    seconds_R: list[float] = field(default_factory=list)
    bytes_R: list[int] = field(default_factory=list)
    prices_R: list[int] = field(default_factory=list)
    mib: float = 0.0

    @property
    def ms(self) -> float:
        """Milliseconds of the processor, of the median round."""
        return float(np.median(self.seconds_R)) * 1e3

    @property
    def last_over_first(self) -> float:
        """The median of the last tenth of the rounds over that of the first."""
        few = max(5, len(self.seconds_R) // 10)
        return float(np.median(self.seconds_R[-few:]) / np.median(self.seconds_R[:few]))


def measure(case: Case) -> Measured:
    """Carry a run out, in this process."""
    accounting.epsilon.cache_clear()
    before, found = peak_mib(), Measured()
    with TemporaryDirectory() as folder, _written_bytes() as written:
        at, octets, prices = time.process_time(), written[0], _prices()

        def observe(*_: object) -> None:
            nonlocal at, octets, prices
            # The round's files are written, the next has not begun.
            found.seconds_R.append(time.process_time() - at)
            found.bytes_R.append(written[0] - octets)
            found.prices_R.append(_prices() - prices)
            found.mib = peak_mib() - before
            at, octets, prices = time.process_time(), written[0], _prices()

        recording.run(case.config(), Path(folder) / "run", observer=observe)
    return Measured(found.seconds_R[1:-1], found.bytes_R[1:-1], found.prices_R[1:-1], found.mib)


def _prices() -> int:
    """How many ε were computed, and not remembered, since the process began."""
    return accounting.epsilon.cache_info().misses


@contextmanager
def _written_bytes() -> Iterator[list[int]]:
    """Counts the bytes that reach the disk, of which a run makes sure file by file."""
    total, appended, fsync = [0], dict[int, int](), os.fsync

    def counting(descriptor: int) -> None:
        status = os.fstat(descriptor)
        known = 0
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            known, appended[status.st_ino] = appended.get(status.st_ino, 0), status.st_size
        total[0] += status.st_size - known
        fsync(descriptor)

    os.fsync = counting  # type: ignore[assignment]
    try:
        yield total
    finally:
        os.fsync = fsync


def in_own_process(case: Case) -> Measured:
    """The same in a fresh process, whose memory holds nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, case).result()


def _cases(quick: bool) -> dict[Axis, list[int]]:
    if quick:
        return {"rounds": [50, 200], "clients": [100, 20_000], "cohort": [10, 50], "parameters": [10_000, 1_000_000]}
    return {
        "rounds": [50, 300, 2_000],
        "clients": [100, 2_000, 20_000],
        "cohort": [10, 100, 1_000],
        "parameters": [10_000, 100_000, 1_000_000, 10_000_000],
    }


def _table(axis: Axis, sizes: Sequence[int], flat: Figures, quick: bool) -> dict[str, dict[str, str]]:
    """A column for each size, a row for each way to aggregate and to protect; the figures go to ``flat`` too."""
    columns: dict[str, dict[str, str]] = {}
    for size in sizes:
        cells = columns.setdefault(f"{axis} = {size:,}", {})
        for secure, private in itertools.product((False, True), (True,) if quick else (False, True)):
            case = Case(secure=secure, private=private, rounds=12 if axis in ("cohort", "parameters") else 50).at(axis, size)
            found, name = in_own_process(case), f"{case.name}_{axis}_{size}"
            octets, prices = float(np.mean(found.bytes_R)), float(np.mean(found.prices_R))
            flat |= {f"{name}_ms": found.ms, f"{name}_mib": found.mib}
            flat |= {f"{name}_bytes": octets, f"{name}_prices": prices}
            cells[case.name.replace("_", ", ")] = f"{found.ms:.1f}; {found.mib:.0f}; {octets / 1e3:,.1f}; {prices:.1f}"
    return columns


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then print or write."""
    chosen = options("Does a round cost more as a run grows?", argv)
    flat: Figures = {}
    for axis, sizes in _cases(chosen.quick).items():
        columns = _table(axis, sizes, flat, chosen.quick)
        if chosen.json is None:
            print_table(f"A round by {axis}, without training: CPU ms; MiB; kB written; ε computed", columns)
    long = in_own_process(Case(rounds=100 if chosen.quick else 300, clients=2_000, cohort=100))
    flat["last_over_first_round"] = long.last_over_first
    if chosen.json is not None:
        write_json(chosen.json, flat)
    else:
        print(f"last over first tenth of {len(long.seconds_R)} rounds of 100 of 2,000 clients: {long.last_over_first:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
