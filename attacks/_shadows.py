"""Train shadow models by the target's own procedure, each in a process of its own where there are cores, and keep them.

::

    attacks/shadows/members.npz        member_SN, the candidates that each shadow model is trained on; more rows may join them
    attacks/shadows/shadow_000.npz     the members and the outputs of one shadow model; kept, so that neither a crash nor
                                       another attack later, of more shadow models perhaps, trains it again
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
from privfl.running.attacking import ShadowObserver
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment, assemble
from privfl.running.knowledge import BoolArray, ModelOutputs
from privfl.running.run_folder import RunFolder
from privfl.storage import npz, read_npz, write_atomic


def trained(
    folder: RunFolder, experiment: Experiment, coins: Coins, observer: ShadowObserver | None
) -> tuple[BoolArray, list[ModelOutputs]]:
    """The shadow models that the run's configuration asks for: members of shape (S, N), and each one's outputs.

    Raises:
        DataError: a process read other data than the run, or built another model.
        PrivflError: a process died.
    """
    member_SN = _shadow_members(folder, coins, experiment.config.attacks.shadow_models)
    return member_SN, _train_shadows(folder, experiment, member_SN, observer)


@dataclass(frozen=True)
class _Job:
    """One shadow model to train, in whatever process."""

    index: int
    member_N: BoolArray
    of: str
    """The target's noise domain."""


def _train_shadow(experiment: Experiment, job: _Job) -> ModelOutputs:
    """Train one shadow by the target's own procedure: same code, same plan, other members, other randomness.

    Raises:
        DataError: this process read other data than the target's, or built another model.
    """
    if experiment.noise_domain != job.of:
        raise DataError(
            f"shadow model {job.index}: this process read other data, or built another model, than the run; seed the shuffling "
            "of the data set, and what the model draws, and attack again"
        )
    candidates = np.flatnonzero(experiment.data.candidate_N)
    members = experiment.data.member_N.copy()
    members[candidates] = job.member_N
    return _outputs(experiment, experiment.shadow(job.index, members).train(), candidates)


def _outputs(experiment: Experiment, vector_D: torch.Tensor, candidates: NDArray[np.int64]) -> ModelOutputs:
    candidate_x = experiment.x[torch.from_numpy(candidates).to(experiment.x.device)]
    return ModelOutputs(
        experiment.logits(vector_D, candidate_x).cpu().numpy(),
        experiment.logits(vector_D, experiment.test_x).cpu().numpy(),
    )


def _shadow_members(folder: RunFolder, coins: Coins, count: int) -> BoolArray:
    """The candidates that each of so many shadow models is trained on: as they were drawn before, where they were."""
    path = folder.path / "attacks" / "shadows" / "members.npz"
    try:
        before_SN = read_npz(path)["member_SN"] if path.exists() else None
    except RunFolderError:
        before_SN = None
    member_SN = coins.shadows(count, before_SN)
    if before_SN is None or count > len(before_SN):
        # Before any of them is trained: whatever happens, they are not drawn otherwise.
        write_atomic(path, npz({"member_SN": member_SN}))
    return member_SN


def _train_shadows(
    folder: RunFolder, experiment: Experiment, shadow_SN: BoolArray, observer: ShadowObserver | None
) -> list[ModelOutputs]:
    paths = [folder.path / "attacks" / "shadows" / f"shadow_{index:03d}.npz" for index in range(len(shadow_SN))]
    done = {index: found for index, path in enumerate(paths) if (found := _kept(path, shadow_SN[index])) is not None}
    if observer is not None:
        observer(len(done), len(paths))
    jobs = [_Job(index, shadow_SN[index], experiment.noise_domain) for index in range(len(paths)) if index not in done]
    for job, outputs in _carry_out(experiment, jobs):
        content = {"member_N": job.member_N, "candidates_NC": outputs.candidates_NC, "population_PC": outputs.population_PC}
        write_atomic(paths[job.index], npz(content))
        done[job.index] = outputs
        if observer is not None:
            observer(len(done), len(paths))
    return [done[index] for index in range(len(paths))]


def _kept(path: Path, member_N: BoolArray) -> ModelOutputs | None:
    """A shadow model's outputs from an earlier call, where they are whole and for the same members."""
    try:
        kept = read_npz(path)
    except RunFolderError:
        return None
    return ModelOutputs(kept["candidates_NC"], kept["population_PC"]) if np.array_equal(kept["member_N"], member_N) else None


def _carry_out(experiment: Experiment, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, ModelOutputs]]:
    """On a CPU one process a core, each with one thread; on a GPU one after another."""
    workers = min(len(jobs), cores())
    if workers <= 1 or experiment.x.device.type != "cpu":
        for job in jobs:
            yield job, _train_shadow(experiment, job)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(experiment.config, experiment.plan),
    )
    begun: dict[int, BaseProcess] = {}
    waiting: dict[Future[ModelOutputs], _Job] = {}
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


_PATIENCE = 5.0
"""Seconds; when one process has died, the pool ends the others at once."""

_assembled: Callable[[], Experiment] | None = None
"""A worker process assembles the experiment once, not once a shadow model; within a job, so that its errors are told."""


def _begin_worker(config: ExperimentConfig, plan: Plan) -> None:
    global _assembled
    os.environ |= share_of_threads(cores())
    _assembled = functools.cache(lambda: assemble(config, plan))


def _work(job: _Job) -> ModelOutputs:
    assert _assembled is not None
    # An exception goes to the parent without its traceback.
    with telling(), deterministic():
        return _train_shadow(_assembled(), job)
