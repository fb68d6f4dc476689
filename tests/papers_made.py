"""Rows of a made-up paper on handwritten digits, run in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tomli_w
from small_runs import SMALL

from privfl.errors import PrivflError
from privfl.loading import load
from privfl.running.recording import run
from privfl.running.sweeping import EndedRun, Variant

PAPER = {
    "title": "Digits, revisited",
    "authors": "Nobody & Somebody",
    "year": 2020,
    "venue": "Nowhere",
    "where": "table 1, first row",
    "topic": "federated",
    "claim": 0.9,
    "tolerance": 0.2,
    "provenance": "paper",
    "minutes": 0.01,
    "smoke": ["rounds=1"],
}
PLAIN = {"privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}, "server": {"kind": "fedavg"}, "cohort": {"kind": "all"}}


def write_row(folder: Path, name: str, paper: Mapping[str, object] | None = None, **changes: object) -> Path:
    """Write a row: the small run without a promise, with changes of its settings and of its table."""
    # A setting of None takes away what the made-up table has.
    claimed = {key: value for key, value in {**PAPER, **(paper or {})}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps({**SMALL, **PLAIN, "name": name, "rounds": 3, **changes, "paper": claimed}))
    return path


class RunHere:
    """In place of :func:`privfl.running.sweeping.run_one`: trains in this process, and remembers which runs were begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.failing: set[str] = set()

    def __call__(
        self, config: Path, variant: Variant, out: Path, environment: Mapping[str, str], overwrite: bool = False
    ) -> EndedRun:
        name = f"{out.name}/{variant.name}"
        self.begun.append(name + (" again" if overwrite else ""))
        if name in self.failing:
            return EndedRun(variant, out / variant.name, 2, "privfl: it was made to fail")
        try:
            run(load(config, *variant.overrides), out / variant.name, resume=not overwrite, overwrite=overwrite)
        except PrivflError as error:
            return EndedRun(variant, out / variant.name, 2, str(error))
        return EndedRun(variant, out / variant.name, 0, "")
