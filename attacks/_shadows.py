"""Train shadow models by the target's own procedure, several as one program if the engine can, and keep them.

::

    attacks/shadows/members.npz        member_SN, the candidates that each shadow model is trained on, and group_S, the models
                                       that are trained together; more rows may join them
    attacks/shadows/shadow_000.npz     the members, the outputs and the parameters of one shadow model; kept, so that neither a
                                       crash nor another attack later, of more shadow models perhaps, trains it again

On a CPU the groups are spread over processes.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attacks._coins import Coins
from privfl.config import ExperimentConfig
from privfl.errors import DataError, PrivflError, RunFolderError
from privfl.own_code import telling
from privfl.privacy.plans import Plan
from privfl.processes import cores, share_of_threads
from privfl.running import side_by_side
from privfl.running.assembling import assemble
from privfl.running.attacking import ShadowObserver
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.knowledge import BoolArray, ModelOutputs
from privfl.running.run_folder import RunFolder
from privfl.storage import npz, read_npz, write_atomic


def trained(
    folder: RunFolder, experiment: Experiment, coins: Coins, observer: ShadowObserver | None, *, models: bool = False
) -> tuple[BoolArray, list[ModelOutputs]]:
    """The shadow models that the run's configuration asks for: members of shape (S, N), and each one's outputs.

    Raises:
        DataError: a process read other data than the run, or built another model.
        PrivflError: a process died.
    """
    drawn, count = _drawn(folder, experiment, coins), experiment.config.attacks.shadow_models
    return drawn.member_SN[:count], _train_shadows(folder, experiment, drawn, count, observer, models)


def models(folder: RunFolder, count: int) -> Iterator[torch.Tensor]:
    """The parameters of shadow models that are kept, one at a time."""
    return (torch.from_numpy(read_npz(_path(folder, index))["model_D"]) for index in range(count))


def _path(folder: RunFolder, index: int) -> Path:
    return folder.path / "attacks" / "shadows" / f"shadow_{index:03d}.npz"


@dataclass(frozen=True)
class _Drawn:
    """The candidates of each shadow model, and the number of its group; there may be more than are asked for."""

    member_SN: BoolArray
    group_S: NDArray[np.int64]


@dataclass(frozen=True)
class _Trained:
    """A shadow model and its outputs."""

    model_D: NDArray[np.float32]
    outputs: ModelOutputs


@dataclass(frozen=True)
class _Job:
    """A group of shadow models to train, in whatever process."""

    indices: tuple[int, ...]
    member_SN: BoolArray
    """A row for each of the group."""
    of: str
    """The target's noise domain."""


def _train_group(experiment: Experiment, job: _Job) -> list[_Trained]:
    """Train shadows by the target's own procedure: same code, same plan, other members, other randomness.

    Raises:
        DataError: this process read other data than the target's, or built another model.
    """
    if experiment.noise_domain != job.of:
        raise DataError(
            f"shadow model {job.indices[0]}: this process read other data, or built another model, than the run; seed the "
            "shuffling of the data set, and what the model draws, and attack again"
        )
    candidates = np.flatnonzero(experiment.data.candidate_N)
    shadows = list[Experiment]()
    for index, member_N in zip(job.indices, job.member_SN, strict=True):
        members = experiment.data.member_N.copy()
        members[candidates] = member_N
        shadows.append(experiment.shadow(index, members))
    models = side_by_side.trained(shadows)
    return [_Trained(model_D.cpu().numpy(), _outputs(experiment, model_D, candidates)) for model_D in models]


def _outputs(experiment: Experiment, vector_D: torch.Tensor, candidates: NDArray[np.int64]) -> ModelOutputs:
    candidate_x = experiment.x[torch.from_numpy(candidates).to(experiment.x.device)]
    return ModelOutputs(
        experiment.logits(vector_D, candidate_x).cpu().numpy(),
        experiment.logits(vector_D, experiment.test_x).cpu().numpy(),
    )


def _drawn(folder: RunFolder, experiment: Experiment, coins: Coins) -> _Drawn:
    """The shadow models as they were drawn before, and as many more as are asked for."""
    path, count = folder.path / "attacks" / "shadows" / "members.npz", experiment.config.attacks.shadow_models
    before = _drawn_before(path)
    first = 0 if before is None else len(before.member_SN)
    if before is not None and count <= first:
        return before
    member_SN = coins.shadows(count, None if before is None else before.member_SN)
    group_S = _groups(experiment, count - first)
    if before is not None and first:
        group_S = np.concatenate([before.group_S, group_S + before.group_S.max() + 1])
    # Before any of them is trained: whatever happens, they are not drawn or put together otherwise.
    write_atomic(path, npz({"member_SN": member_SN, "group_S": group_S}))
    return _Drawn(member_SN, group_S)


def _drawn_before(path: Path) -> _Drawn | None:
    try:
        kept = read_npz(path) if path.exists() else None
    except RunFolderError:
        return None
    # Files of older versions have no groups: each was trained alone.
    return None if kept is None else _Drawn(kept["member_SN"], kept.get("group_S", np.arange(len(kept["member_SN"]))))


def _groups(experiment: Experiment, count: int) -> NDArray[np.int64]:
    """The number of each new shadow model's group: at least four groups on a CPU, so that four cores have some of them.

    The last bits of a model may depend on those that it is trained with. So the groups must not depend on the number of cores,
    nor on which models are there already.
    """
    least = _LEAST_GROUPS if experiment.x.device.type == "cpu" else 1
    size = max(1, min(side_by_side.runs_at_once(experiment), count // least))
    return np.arange(count) // size


def _train_shadows(
    folder: RunFolder, experiment: Experiment, drawn: _Drawn, count: int, observer: ShadowObserver | None, models: bool
) -> list[ModelOutputs]:
    paths = [_path(folder, index) for index in range(len(drawn.member_SN))]
    kept = {index: _kept(paths[index], drawn.member_SN[index], models) for index in range(count)}
    done = {index: outputs for index, outputs in kept.items() if outputs is not None}
    if observer is not None:
        observer(len(done), count)
    jobs = list[_Job]()
    for group in sorted({int(drawn.group_S[index]) for index in range(count) if index not in done}):
        # The whole group, so that the bytes are those of an attack that was never interrupted.
        indices = np.flatnonzero(drawn.group_S == group)
        jobs.append(_Job(tuple(map(int, indices)), drawn.member_SN[indices], experiment.noise_domain))
    for job, found in _carry_out(experiment, jobs):
        for index, member_N, one in zip(job.indices, job.member_SN, found, strict=True):
            if index in done:
                continue
            outputs = {"candidates_NC": one.outputs.candidates_NC, "population_PC": one.outputs.population_PC}
            write_atomic(paths[index], npz({"member_N": member_N, **outputs, "model_D": one.model_D}))
            if index < count:
                done[index] = one.outputs
        if observer is not None:
            observer(len(done), count)
    return [done[index] for index in range(count)]


def _kept(path: Path, member_N: BoolArray, model: bool) -> ModelOutputs | None:
    """A shadow model's outputs from an earlier call, if they are whole and for the same members.

    Args:
        path: its file.
        member_N: its members.
        model: whether its parameters must be there too, which older versions did not keep.
    """
    try:
        kept = read_npz(path)
    except RunFolderError:
        return None
    if not np.array_equal(kept["member_N"], member_N) or (model and "model_D" not in kept):
        return None
    return ModelOutputs(kept["candidates_NC"], kept["population_PC"])


def _carry_out(experiment: Experiment, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, list[_Trained]]]:
    """On a CPU one process a core, each with one thread; on a GPU one after another."""
    workers = min(len(jobs), cores())
    if workers <= 1 or experiment.x.device.type != "cpu":
        for job in jobs:
            yield job, _train_group(experiment, job)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(experiment.config, experiment.plan),
    )
    begun: dict[int, BaseProcess] = {}
    waiting: dict[Future[list[_Trained]], _Job] = {}
    try:
        with _interrupts_are_ours(), _script_is_ours():
            for job in jobs:
                waiting[pool.submit(_work, job)] = job
                begun |= pool._processes or {}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool:
        raise PrivflError(
            f"a process that trained a shadow model died ({_how(begun.values())}); attack again to go on"
        ) from None
    finally:
        # No shadow model is waited for that nobody will fetch.
        for process in begun.values():
            process.terminate()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_are_ours() -> Iterator[None]:
    """Processes begun in here never see a Ctrl-C, which a terminal sends to all: the parent ends them, in silence."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _script_is_ours() -> Iterator[None]:
    """Processes begun in here do not import the script that was started, as they else would: without a guard it would attack
    again in each of them. Nothing that they are given is defined there.
    """
    script = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: script[name] for name in ("__file__", "__spec__") if name in script}
    script.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        script.update(hidden)


def _how(processes: Collection[BaseProcess]) -> str:
    """How the process ended that ended first: the pool has ended the others by a signal since."""
    patient_until = time.monotonic() + _PATIENCE
    # The pool's own thread waits for them too, and who has lost that race is told a moment later.
    while any(process.exitcode is None for process in processes) and time.monotonic() < patient_until:
        time.sleep(0.02)
    ended = [process.exitcode for process in processes if process.exitcode]
    if not ended:
        return "how is not known"
    code = next((one for one in ended if one != -signal.SIGTERM), -signal.SIGTERM)
    if code > 0:
        return f"exit code {code}"
    name = f", {signal.Signals(-code).name}" if -code in set(signal.Signals) else ""
    return f"signal {-code}{name}"


_LEAST_GROUPS = 4

_PATIENCE = 5.0
"""Seconds; when one process has died, the pool ends the others at once."""

_assembled: Callable[[], Experiment] | None = None
"""A worker process assembles the experiment once, not once a shadow model; within a job, so that its errors are told."""


def _begin_worker(config: ExperimentConfig, plan: Plan) -> None:
    global _assembled
    os.environ |= share_of_threads(cores())
    _assembled = functools.cache(lambda: assemble(config, plan))


def _work(job: _Job) -> list[_Trained]:
    assert _assembled is not None
    # An exception goes to the parent without its traceback.
    with telling(), deterministic():
        return _train_group(_assembled(), job)
