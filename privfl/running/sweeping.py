"""Independent runs of one configuration at several settings, side by side: over cores, GPUs, or a Slurm cluster.

Each run is a process of its own that does what ``privfl run ... --resume`` does: one that fails or is killed takes no other
with it, and a sweep that is started again goes on where it was.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privfl.errors import ConfigError, first_line
from privfl.loading import load
from privfl.storage import storing

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_OPENING, _CLOSING = "[{(", "]})"
_CARDS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Variant:
    """One run of a sweep: its settings, ``key=value``, and its folder's name."""

    overrides: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Ended:
    """How a run ended: its folder, the process' exit code, and its last words."""

    variant: Variant
    folder: Path
    code: int
    words: str


SweepObserver = Callable[[Ended], None]


def variants(config: Path, settings: Sequence[str]) -> list[Variant]:
    """Every combination of the settings' values, each a configuration that can be run.

    Args:
        config: a TOML file.
        settings: ``key=value`` as for a run; ``key=a,b,c`` tries each of them, ``key=0..4`` each integer, 4 included. Commas
            within brackets or quotes do not count.

    Raises:
        ConfigError: a combination is none, or a key is given twice.
    """
    choices: list[tuple[str, list[str]]] = []
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals:
            raise ConfigError(f"override {setting!r}: must be KEY=VALUE, or KEY=VALUE,VALUE,... to try each")
        if key in (known for known, _ in choices):
            raise ConfigError(f"override {setting!r}: {key} is given twice; name all its values at once, {key}=VALUE,VALUE")
        choices.append((key, _values(values)))
    found = []
    for combination in itertools.product(*(values for _, values in choices)):
        overrides = tuple(f"{key}={value}" for (key, _), value in zip(choices, combination, strict=True))
        load(config, *overrides)
        moving = (text for text, (_, values) in zip(overrides, choices, strict=True) if len(values) > 1)
        found.append(Variant(overrides, re.sub(r"[^\w.,=+-]+", "_", ",".join(moving)) or "run"))
    return found


def _values(text: str) -> list[str]:
    """``0..2`` -> 0, 1, 2; else the parts between commas that are in no bracket and no quotation."""
    whole = _RANGE.fullmatch(text)
    if whole and int(whole[2]) < int(whole[1]):
        raise ConfigError(f"{text}: is an empty range; write the smaller number first, {whole[2]}..{whole[1]}")
    if whole:
        return [str(value) for value in range(int(whole[1]), int(whole[2]) + 1)]
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in _OPENING) - (letter in _CLOSING) if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def run_here(
    config: Path,
    chosen: Sequence[Variant],
    out: Path,
    *,
    jobs: int,
    gpus: int,
    overwrite: bool = False,
    observer: SweepObserver | None = None,
) -> list[Ended]:
    """Run them on this machine, ``jobs`` at a time, each on the next free GPU where there are any.

    Args:
        config: a TOML file.
        chosen: from :func:`variants`.
        out: where their folders are made.
        jobs: how many at a time, at least 1.
        gpus: how many GPUs there are; 0: none.
        overwrite: replace the runs that are there; they go on otherwise.
        observer: called when a run has ended.
    """
    from joblib import Parallel, delayed

    # With it comes torch, and the command line has to be quick to help.
    from privfl.processes import share_of_threads

    # Of the cards that this process may use, whose numbers may be others than theirs on the machine.
    cards = [name for name in os.environ.get(_CARDS, "").split(",") if name] or list(map(str, range(gpus)))
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(jobs):
        free.put(place)

    def one(variant: Variant) -> Ended:
        place = free.get()
        try:
            gpu = {_CARDS: cards[place % gpus]} if gpus else {}
            return run_one(config, variant, out, share_of_threads(jobs) | gpu, overwrite)
        finally:
            free.put(place)

    ended = []
    # Threads, for each only waits for a process of its own.
    for result in Parallel(n_jobs=jobs, prefer="threads", return_as="generator_unordered")(delayed(one)(v) for v in chosen):
        ended.append(result)
        if observer is not None:
            observer(result)
    return sorted(ended, key=lambda one: chosen.index(one.variant))


def run_on_cluster(
    config: Path,
    chosen: Sequence[Variant],
    out: Path,
    *,
    cluster: str,
    parameters: Mapping[str, str | int],
    overwrite: bool = False,
) -> list[Ended]:
    """Run them as one job array, and wait for all.

    Args:
        config: a TOML file.
        chosen: from :func:`variants`.
        out: where their folders are made, and the scheduler's logs; all nodes must see it.
        cluster: ``slurm``; ``local`` and ``debug`` are submitit's own, to try it without a cluster.
        parameters: what the scheduler is asked for, by submitit's names (``timeout_min``, ``slurm_partition``, ...).
        overwrite: replace the runs that are there; they go on otherwise.

    Raises:
        ConfigError: submitit is not installed, or refuses a parameter.
    """
    try:
        import submitit
    except ImportError:
        raise ConfigError("a sweep on a cluster needs submitit: pip install 'privfl[slurm]', or run it here") from None
    try:
        executor = submitit.AutoExecutor(folder=out / "scheduler", cluster=cluster)
        executor.update_parameters(**parameters)
    except (NameError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"submitit refuses {dict(parameters)} on {cluster!r}: {first_line(error)}") from None
    count = len(chosen)
    submitted = executor.map_array(
        run_one, [config.resolve()] * count, chosen, [out.resolve()] * count, [{}] * count, [overwrite] * count
    )
    return [job.result() for job in submitted]


def run_one(config: Path, variant: Variant, out: Path, environment: Mapping[str, str], overwrite: bool = False) -> Ended:
    """Run one to its end, or resume it, or replace it; what it says goes to ``NAME.log`` beside its folder."""
    folder, log = out / variant.name, out / f"{variant.name}.log"
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    again = "--overwrite" if overwrite else "--resume"
    command = [sys.executable, "-m", "privfl", "run", str(config), *variant.overrides, "--out", str(folder), again]
    with log.open("w") as file:
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}, check=False
        ).returncode
    lines = log.read_text(errors="replace").strip().splitlines()
    return Ended(variant, folder, code, lines[-1] if lines else f"exit code {code}")
