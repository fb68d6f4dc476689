"""Sweeps: independent runs of one configuration with different settings, on cores, GPUs or a Slurm cluster.

Each run is a process of its own that does the same as ``privfl run ... --resume``. If one fails or is killed, the others go on.
If a sweep is started again, it continues unfinished runs.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from privfl.errors import ConfigError, first_line
from privfl.loading import load
from privfl.storage import storing

TARGET: Final = "privacy.target_epsilon"
"""The setting of the promised ε; ``inf`` stands for no promise."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_LIKE_RANGE = re.compile(r"\[?(-?\d+)(?:-|:|\.{2,}|…|\.\.=)(-?\d+)\]?")
_OPENING, _CLOSING = "[{(", "]})"
_CARDS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Variant:
    """One run of a sweep.

    Args:
        overrides: its settings, ``key=value``.
        name: its folder's name.
        attacks: the words of a ``privfl attack`` that follows the run and replaces the configuration's attacks; None: those of
            the configuration are run.
    """

    overrides: tuple[str, ...]
    name: str
    attacks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Refused:
    """A combination of settings that cannot be run: its folder's name if it could, and the error in one line."""

    name: str
    error: str


@dataclass(frozen=True)
class EndedRun:
    """The end of a run: its folder, the exit code of its process, and the last line of its output."""

    variant: Variant
    folder: Path
    code: int
    words: str


SweepObserver = Callable[[EndedRun], None]

Order = TypeVar("Order")
Ended = TypeVar("Ended")


def variants(config: Path, settings: Sequence[str]) -> list[Variant]:
    """Every combination of the settings' values, each checked to be a valid configuration.

    Args:
        config: a TOML file.
        settings: ``key=value`` as for a run. ``key=a,b,c`` tries each value, and ``key=0..4`` each integer from 0 to 4. Commas
            within brackets or quotes do not separate values. ``privacy.target_epsilon=inf`` is no promise: ``privacy=none``,
            without other settings of ``privacy``.

    Raises:
        ConfigError: a combination is not a valid configuration, or a key is given twice.
    """
    found = []
    for one in combinations(settings):
        _load(config, one.overrides)
        found.append(one)
    return found


def possible(config: Path, settings: Sequence[str], points: Sequence[str] = ()) -> tuple[list[Variant], list[Refused]]:
    """The combinations that can be run, and those that cannot.

    Args:
        config: a TOML file.
        settings: as :func:`variants` takes them.
        points: lists of settings, each with spaces between them and one value each. Every one is combined with ``settings``.

    Raises:
        ConfigError: no combination can be run, or a key is given twice.
    """
    found, refused = [], []
    for one in _at_points(settings, points) if points else combinations(settings):
        try:
            _load(config, one.overrides)
        except ConfigError as error:
            refused.append(Refused(one.name, str(error)))
        else:
            found.append(one)
    if not found:
        raise ConfigError(refused[0].error)
    return found, refused


def _load(config: Path, overrides: Sequence[str]) -> None:
    """Check a combination.

    Raises:
        ConfigError: it is not valid; if a value looks like a range, the message says how one is written.
    """
    try:
        load(config, *overrides)
    except ConfigError as error:
        for override in overrides:
            key, _, value = override.partition("=")
            like = _LIKE_RANGE.fullmatch(value)
            if like and str(error).startswith(f"override {override!r}: "):
                way_out = f"write {key}={like[1]}..{like[2]} alone, or every value with commas between them"
                raise ConfigError(f"override {override!r}: {value!r} is not how a range is written; {way_out}") from None
        raise


def _at_points(settings: Sequence[str], points: Sequence[str]) -> Iterator[Variant]:
    for point in points:
        words = shlex.split(point)
        for one in combinations([*settings, *words]):
            # The values of a point do not move by themselves, and yet they tell the points apart.
            moving = [] if one.name == "run" else [one.name]
            yield replace(one, name=_file_name(",".join([*words, *moving])))


def combinations(settings: Sequence[str]) -> list[Variant]:
    """Every combination of the settings' values, whether it can be run or not.

    Args:
        settings: as :func:`variants` takes them.

    Raises:
        ConfigError: a setting without a value, or a key that is given twice.
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
        moving = (text for text, (_, values) in zip(overrides, choices, strict=True) if len(values) > 1)
        found.append(Variant(_unpromised(overrides), _file_name(",".join(moving)) or "run"))
    return found


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,=+-]+", "_", text)


def _unpromised(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """An infinite target is no promise, and settings of a promise mean nothing then."""
    if f"{TARGET}=inf" not in overrides:
        return overrides
    return (*(one for one in overrides if not re.match(r"privacy[.=]", one)), "privacy=none")


def _values(text: str) -> list[str]:
    """``0..2`` -> 0, 1, 2; else the parts between commas that are outside of brackets and quotes."""
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


def gpus() -> int:
    """The number of GPUs that this process may use."""
    import torch

    return torch.cuda.device_count()


def run_locally(
    config: Path,
    chosen: Sequence[Variant],
    out: Path,
    *,
    jobs: int,
    gpus: int,
    overwrite: bool = False,
    observer: SweepObserver | None = None,
) -> list[EndedRun]:
    """Run the variants on this machine, ``jobs`` at a time, each on the next free GPU if there are any.

    Args:
        config: a TOML file.
        chosen: from :func:`variants`.
        out: the folder for the run folders.
        jobs: the number of runs at a time, at least 1.
        gpus: the number of GPUs; 0 if there are none.
        overwrite: replace existing runs; otherwise continue them.
        observer: called when a run has ended.
    """
    ended = []

    def one(variant: Variant, environment: Mapping[str, str]) -> EndedRun:
        return run_one(config, variant, out, environment, overwrite)

    for result in side_by_side(chosen, one, jobs=jobs, gpus=gpus):
        ended.append(result)
        if observer is not None:
            observer(result)
    return sorted(ended, key=lambda one: chosen.index(one.variant))


def side_by_side(
    orders: Sequence[Order], carry_out: Callable[[Order, Mapping[str, str]], Ended], *, jobs: int, gpus: int
) -> Iterator[Ended]:
    """Carry out orders, ``jobs`` at a time, each with its share of the cores, and on the next free GPU if there are any.

    Args:
        orders: the orders, begun in this sequence.
        carry_out: waits for a process that does the work; it gets an order and the environment of that process.
        jobs: the number of orders at a time, at least 1.
        gpus: the number of GPUs; 0 if there are none.

    Returns:
        the results as they come.
    """
    from joblib import Parallel, delayed

    # Imported here because it imports torch, and the command line must start quickly.
    from privfl.processes import share_of_threads

    # GPUs that this process may use. Their numbers may differ from those on the machine.
    cards = [name for name in os.environ.get(_CARDS, "").split(",") if name] or list(map(str, range(gpus)))
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(jobs):
        free.put(place)

    def one(order: Order) -> Ended:
        place = free.get()
        try:
            gpu = {_CARDS: cards[place % gpus]} if gpus else {}
            return carry_out(order, share_of_threads(jobs) | gpu)
        finally:
            free.put(place)

    # Threads are enough, because each only waits for a process.
    found: Iterator[Ended] = Parallel(n_jobs=jobs, prefer="threads", return_as="generator_unordered")(
        delayed(one)(order) for order in orders
    )
    return found


def run_on_cluster(
    config: Path,
    chosen: Sequence[Variant],
    out: Path,
    *,
    cluster: str,
    parameters: Mapping[str, str | int],
    overwrite: bool = False,
) -> list[EndedRun]:
    """Run the variants as one job array and wait for all of them.

    Args:
        config: a TOML file.
        chosen: from :func:`variants`.
        out: the folder for the run folders and the scheduler's logs; all nodes must see it.
        cluster: ``slurm``; ``local`` and ``debug`` are submitit's own modes for a try without a cluster.
        parameters: requests to the scheduler by submitit's names (``timeout_min``, ``slurm_partition``, ...).
        overwrite: replace existing runs; otherwise continue them.

    Raises:
        ConfigError: submitit is not installed, or it refuses a parameter.
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


def run_one(config: Path, variant: Variant, out: Path, environment: Mapping[str, str], overwrite: bool = False) -> EndedRun:
    """Run one variant to its end, resume it or replace it. Its output goes to ``NAME.log`` beside its folder."""
    folder, log = out / variant.name, out / f"{variant.name}.log"
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    again = "--overwrite" if overwrite else "--resume"
    without = [] if variant.attacks is None else ["attacks.run=[]"]
    commands = [["run", str(config), *variant.overrides, *without, "--out", str(folder), again]]
    if variant.attacks is not None and (overwrite or not (folder / "attacks" / "summary.json").exists()):
        commands.append(["attack", str(folder), *variant.attacks, "--allowed"])
    code = 0
    with log.open("w") as file:
        for command in commands:
            code = (
                code
                or subprocess.run(
                    [sys.executable, "-m", "privfl", *command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    check=False,
                ).returncode
            )
    lines = log.read_text(errors="replace").strip().splitlines()
    return EndedRun(variant, folder, code, lines[-1] if lines else f"exit code {code}")
