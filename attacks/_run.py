"""Attack a run folder: train the shadow models, score, evaluate, and write down what was found.

::

    attacks/shadows/members.npz        member_SN, the candidates that each shadow model is trained on; more rows may join them
    attacks/shadows/shadow_000.npz     what one shadow model was trained on, and its outputs; kept, so that neither a crash
                                       nor another attack later, of more shadow models perhaps, trains it again
    attacks/membership/lira.npz        scores of each variant, and who was a member
    attacks/summary.json               records.Leakage
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

from attacks.membership import BoolArray, FloatArray, MembershipAttack
from attacks.membership._coins import Candidates
from attacks.membership._harness import Outputs, gather, score_all, to_arrays
from privfl.auditing import Estimate, Evaluation, OperatingPoint, PrivacyCurve, Scores, evaluate
from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, DataError, PrivflError, RunFolderError
from privfl.learning.models._build import constants
from privfl.loading import load
from privfl.own_code import telling
from privfl.privacy.plans import Plan
from privfl.processes import cores, share_of_threads
from privfl.records import AttackRecord, BestAttack, Interval, Leakage, RateAt
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment, assemble
from privfl.running.run_folder import RunFolder
from privfl.running.views import open_view
from privfl.shelves import SHELVES
from privfl.storage import npz, read_npz, write_atomic
from privfl.tables import Item, narrow

Observer = Callable[[int, int], None]
"""Called with how many shadow models are done, and how many there are."""


def run_attacks(
    folder: RunFolder, names: Sequence[str] = (), observer: Observer | None = None, settings: Sequence[str] = ()
) -> Leakage:
    """Run attacks on a finished run.

    Args:
        folder: the run.
        names: which; none given means those of the run's configuration.
        observer: called before the first shadow model and after each.
        settings: ``attacks.key=value``; from now on those of the run. Shadow models that are there stay.

    Raises:
        ConfigError: an unknown attack, one that cannot be run on this run, or a setting of something else than attacks.
        RunFolderError: the data here are not those of the run.
        ViewError: the attack's adversary was not part of the run, or the run has not finished.
    """
    with folder.locked():
        return _run_locked(folder, names, observer, settings)


def _run_locked(folder: RunFolder, names: Sequence[str], observer: Observer | None, settings: Sequence[str]) -> Leakage:
    config = _with_settings(folder, settings)
    chosen = _chosen(config, _all_names(folder, config, names))
    with deterministic():
        experiment = assemble(config)
        _require_same_data(folder, experiment)
        for attack in chosen:
            attack.require_possible(experiment)
        candidates = Candidates.of(experiment)
        target = _target_outputs(folder, experiment, candidates.rows_N)
        folder.change_attacks(config)
        shadow_SN = _shadow_members(folder, candidates, config.attacks.shadow_models)
        shadows = _train_shadows(folder, experiment, shadow_SN, observer)
    evidence = gather(
        target,
        labels_N=experiment.data.pool.y[candidates.rows_N],
        population_labels_P=experiment.data.test.y,
        member_SN=shadow_SN,
        train=lambda _, index: shadows[index],
        task=experiment.task,
    )
    scores = score_all(chosen, evidence)
    for attack_name, variants in scores.items():
        write_atomic(
            folder.path / "attacks" / f"{attack_name}.npz", npz(to_arrays({attack_name: variants}, candidates.member_N))
        )
    every = _found_before(folder, scores, candidates.member_N)
    evaluation = evaluate(every, candidates.member_N, _promised(folder), candidates.halving())
    leakage = _leakage(evaluation, len(shadow_SN))
    folder.write("attacks/summary.json", leakage)
    return leakage


def _with_settings(folder: RunFolder, settings: Sequence[str]) -> ExperimentConfig:
    """The run's configuration with other attacks.

    Raises:
        ConfigError: a setting is of something else, or is wrong.
    """
    for setting in settings:
        if not setting.startswith("attacks."):
            raise ConfigError(
                f"override {setting!r}: the run was trained without it; only attacks.* may change, all else is another run"
            )
    return load(folder.path / "config.toml", *settings)


def _all_names(folder: RunFolder, config: ExperimentConfig, names: Sequence[str]) -> Sequence[str]:
    """Those that were asked for; and those that were run with another number of shadow models, to be judged beside them."""
    asked = list(names) or [item.kind for item in config.attacks.run]
    before = folder.leakage
    if not asked or before is None or before.shadow_models == config.attacks.shadow_models:
        return asked
    return list(dict.fromkeys([*asked, *(one.attack for one in before.attacks)]))


def _chosen(config: ExperimentConfig, names: Sequence[str]) -> list[MembershipAttack]:
    configured = {item.kind: item for item in config.attacks.run}
    items: list[Item] = []
    for name in names:
        try:
            items.append(configured.get(name) or SHELVES["attacks.run"].find(name)(kind=name))
        except ConfigError as error:
            raise ConfigError(f"attack {name!r}: {error}") from None
    if not items:
        raise ConfigError(f"attacks.run is empty; name attacks to run: {', '.join(SHELVES['attacks.run'].names())}")
    return [narrow(item, MembershipAttack) for item in items]


def _require_same_data(folder: RunFolder, experiment: Experiment) -> None:
    """The truth about membership is what the run wrote down; whatever is assembled again must agree with it."""
    folder.require_same_data(experiment.data.digest())
    folder.require_same_constants(constants(experiment.model))
    written = read_npz(folder.path / "membership.npz")
    if any(not np.array_equal(written[name], getattr(experiment.data, name)) for name in ("candidate_N", "member_N")):
        raise RunFolderError(f"{folder.path}: membership.npz is not what this run drew; run its config.toml anew")


def _found_before(folder: RunFolder, scores: Scores, member_N: BoolArray) -> Scores:
    """The scores of attacks that were run earlier. The best attack is always chosen among all: whoever ran them one by
    one and kept the best would choose on the very candidates that are measured.
    """
    earlier: dict[str, dict[str, FloatArray]] = {}
    for path in sorted((folder.path / "attacks").rglob("*.npz")):
        attack = path.relative_to(folder.path / "attacks").with_suffix("").as_posix()
        if path.parent.name == "shadows" or attack in scores:
            continue
        kept = read_npz(path)
        if np.array_equal(kept.pop("member"), member_N):
            earlier[attack] = {name.removeprefix(f"{attack}: "): values for name, values in kept.items()}
    return dict(sorted({**earlier, **scores}.items()))


def _target_outputs(folder: RunFolder, experiment: Experiment, candidates: NDArray[np.int64]) -> Outputs:
    view = open_view(folder, MembershipAttack.adversary, experiment.layout)
    return _outputs(experiment, view.final_model().to(experiment.x.device), candidates)


def _outputs(experiment: Experiment, vector_D: torch.Tensor, candidates: NDArray[np.int64]) -> Outputs:
    candidate_x = experiment.x[torch.from_numpy(candidates).to(experiment.x.device)]
    return Outputs(
        experiment.logits(vector_D, candidate_x).cpu().numpy(),
        experiment.logits(vector_D, experiment.test_x).cpu().numpy(),
    )


# --- shadow models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One shadow model to train, in whatever process."""

    index: int
    member_N: BoolArray
    of: str
    """The target's fingerprint."""


def _train_shadow(experiment: Experiment, job: _Job) -> Outputs:
    """Train one shadow by the target's own procedure: same code, same plan, other members, other randomness.

    Raises:
        DataError: this process read other data than the target's, or built another model.
    """
    if experiment.fingerprint != job.of:
        raise DataError(
            f"shadow model {job.index}: this process read other data, or built another model, than the run; seed the shuffling "
            "of the data set, and what the model draws, and attack again"
        )
    candidates = np.flatnonzero(experiment.data.candidate_N)
    members = experiment.data.member_N.copy()
    members[candidates] = job.member_N
    return _outputs(experiment, experiment.shadow(job.index, members).train(), candidates)


def _shadow_members(folder: RunFolder, candidates: Candidates, count: int) -> BoolArray:
    """The candidates that each of so many shadow models is trained on: as they were drawn before, where they were."""
    path = folder.path / "attacks" / "shadows" / "members.npz"
    try:
        before_SN = read_npz(path)["member_SN"] if path.exists() else None
    except RunFolderError:
        before_SN = None
    member_SN = candidates.shadows(count, before_SN)
    if before_SN is None or count > len(before_SN):
        # Before any of them is trained: whatever happens, they are not drawn otherwise.
        write_atomic(path, npz({"member_SN": member_SN}))
    return member_SN


def _train_shadows(folder: RunFolder, experiment: Experiment, shadow_SN: BoolArray, observer: Observer | None) -> list[Outputs]:
    paths = [folder.path / "attacks" / "shadows" / f"shadow_{index:03d}.npz" for index in range(len(shadow_SN))]
    done = {index: found for index, path in enumerate(paths) if (found := _kept(path, shadow_SN[index])) is not None}
    if observer is not None:
        observer(len(done), len(paths))
    jobs = [_Job(index, shadow_SN[index], experiment.fingerprint) for index in range(len(paths)) if index not in done]
    for job, outputs in _carry_out(experiment, jobs):
        content = {"member_N": job.member_N, "candidates_NC": outputs.candidates_NC, "population_PC": outputs.population_PC}
        write_atomic(paths[job.index], npz(content))
        done[job.index] = outputs
        if observer is not None:
            observer(len(done), len(paths))
    return [done[index] for index in range(len(paths))]


def _kept(path: Path, member_N: BoolArray) -> Outputs | None:
    """A shadow model's outputs from an earlier call, where they are whole and for the same members."""
    try:
        kept = read_npz(path)
    except RunFolderError:
        return None
    return Outputs(kept["candidates_NC"], kept["population_PC"]) if np.array_equal(kept["member_N"], member_N) else None


def _carry_out(experiment: Experiment, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, Outputs]]:
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
    waiting: dict[Future[Outputs], _Job] = {}
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


def _work(job: _Job) -> Outputs:
    assert _assembled is not None
    # An exception goes to the parent without its traceback.
    with telling(), deterministic():
        return _train_shadow(_assembled(), job)


# --- records --------------------------------------------------------------------------------------------------------


def _promised(folder: RunFolder) -> PrivacyCurve | None:
    """What the run promises about one example in or out, which is what the attacks ask."""
    privacy = folder.result.privacy
    if privacy is None:
        return None
    return PrivacyCurve(tuple(privacy.curve_epsilon), tuple(privacy.curve_delta), privacy.attack_epsilon, privacy.delta)


def _leakage(evaluation: Evaluation, shadows: int) -> Leakage:
    best = evaluation.best
    return Leakage(
        members=evaluation.members,
        nonmembers=evaluation.nonmembers,
        shadow_models=shadows,
        attacks=[
            AttackRecord(
                attack=one.attack,
                variant=one.variant,
                adversary=MembershipAttack.adversary,
                auc=_interval(one.auc, evaluation.members + evaluation.nonmembers),
                balanced_accuracy=one.balanced_accuracy.value,
                rates=[_rate(point, evaluation.members) for point in one.operating_points],
                roc_fpr=one.curve["fpr"],
                roc_tpr=one.curve["tpr"],
                exceeds_bound=_exceeds(one.operating_points),
            )
            for one in evaluation.leakages
        ],
        best=BestAttack(
            attack=best.attack,
            variant=best.variant,
            candidates=best.measured_on,
            rates=[_rate(best.operating_point, best.members)],
            epsilon_lower=best.epsilon.value,
            level=best.epsilon.level,
            delta=best.epsilon.delta,
        ),
    )


def _interval(estimate: Estimate, count: int) -> Interval:
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high, n=count, level=estimate.level)


def _rate(point: OperatingPoint, count: int) -> RateAt:
    return RateAt(fpr=point.fpr, tpr=None if point.tpr is None else _interval(point.tpr, count), reason=point.reason)


def _exceeds(points: Sequence[OperatingPoint]) -> bool | None:
    verdicts = [point.violated for point in points if point.violated is not None]
    return any(verdicts) if verdicts else None
