"""The noise domain: a digest that separates the random streams of different runs that share a seed.

The digest covers everything that a client's message, or the noise on it, is computed from. Two runs with the same seed and the
same domain send the same messages. They count as one release, and comparing them is a paired ablation. If two runs differ in
any of this, they share no noise, no batches and no secret cohorts. Otherwise the difference of two messages would contain no
noise. A run without a promise adds no noise, so its streams depend on the seed alone.

docs/privacy.md lists all settings. tests/federation/test_noise_domain.py checks each of them.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.data.federated import BoolArray, FederatedData
from privfl.learning.schedules.constant import Constant
from privfl.privacy.plans import Plan

_ONE_BY_ONE = "opacus"
"""The engine whose results do not depend on how a cohort is divided into parts."""


@dataclass(frozen=True)
class RunFacts:
    """Choices of a run that its configuration leaves open and that can change the bits of a message.

    Args:
        engine: the name of the engine that trains.
        device: the kind of device, ``cpu`` or ``cuda``.
        constants: a digest of the model's values that are not trained.
    """

    engine: str
    device: str
    constants: str


def noise_domain(config: ExperimentConfig, facts: RunFacts, plan: Plan, data: FederatedData) -> str:
    """Digest of the settings, the plan with its final noise, the data with their owners, and the user's own code.

    Args:
        config: only settings that change a message or the mechanism count.
        facts: choices that the configuration leaves open.
        plan: its δ and its budget do not count, because they leave every message as it is.
        data: the members do not count here; :func:`with_members` adds them.

    Returns:
        hexadecimal text.
    """
    out = _excluded(config, facts)
    training = config.training
    shelves = (
        *("task", "model", "cohort", "algorithm", "behaviour", "transform", "clock", "pace"),
        *("privacy", "server", "aggregator", "canaries"),
    )
    chosen = [one for name in shelves if out.get(name) is not True and (one := getattr(config, name)) is not None]
    items = [type(item).__module__ for item in (*chosen, training.optimizer, training.round_schedule, training.step_schedule)]
    # This text is part of the digest. If it changes, every run with a promise draws other noise.
    found = f"Made(engine={facts.engine!r}, device={facts.device!r}, constants={facts.constants!r})".encode()
    code = _own_code([*items, facts.engine])
    return _sha256(config.model_dump(exclude=out), found, plan.without_terms(), data.digest(), *code)


def with_members(domain: str, member_N: BoolArray) -> str:
    """The noise domain extended by the members of the pool, as hexadecimal text."""
    return _sha256(domain, np.packbits(member_N).tobytes())


def with_model(domain: str, global_D: Tensor, told: Mapping[str, Tensor]) -> str:
    """The noise domain extended by the model that a round begins with, as hexadecimal text.

    Some settings change a message only after it was sent, such as the aggregator's rounding. The noise domain leaves them out,
    but they change the next round's model. If two runs with different models used the same noise, the difference of two
    messages would reveal how a client's gradients differ between the models, without any noise.

    Args:
        domain: the noise domain of the run.
        global_D: the global model.
        told: the algorithm's state that clients receive beside it.
    """
    return _sha256(domain, *(value.detach().cpu().numpy().tobytes() for value in (global_D, *told.values())))


def state_digest(kept: Mapping[str, Tensor]) -> str:
    """Digest of a client's state, as hexadecimal text. Messages depend on the state, so two states never share noise."""
    return _sha256(*(value.detach().cpu().numpy().tobytes() for value in kept.values()))


def question_digest(models: Mapping[int, Tensor]) -> str:
    """Digest of a malicious server's question: the model that it sends each client."""
    return _sha256(*(part for client in sorted(models) for part in (client, state_digest({"model": models[client]}))))


def _excluded(config: ExperimentConfig, facts: RunFacts) -> dict[str, bool | set[str]]:
    """Settings that the noise domain leaves out. A new setting counts until it is listed here."""
    out: dict[str, bool | set[str]] = dict.fromkeys(("name", "seed", "rounds", "evaluation", "records", "attacks"), True)
    # Engine and device count as :class:`RunFacts` has them.
    if config.training.round_schedule != Constant(kind="constant"):
        # The learning rate of a round may depend on the number of rounds.
        del out["rounds"]
    out |= {"device": True, "training": {"engine"} | ({"parts", "memory_budget"} if facts.engine == _ONE_BY_ONE else set())}
    privacy = config.privacy
    if privacy.unnamed:
        out["privacy"] = set(privacy.unnamed)
    if privacy.noises_messages:
        # If messages leave the client with noise, aggregating them needs no secrecy. Otherwise the noise is added to the
        # aggregate, rounding and lost clients included. Two aggregates with the same noise would then reveal how they differ.
        out["aggregator"] = True
    return out


def _own_code(modules: Iterable[str]) -> Iterator[str]:
    """Source code of modules outside of this project. A user who edits a model and runs it again thereby gets other noise."""
    for name in modules:
        if "." in name and not name.startswith("privfl."):
            with suppress(OSError, TypeError):
                yield inspect.getsource(sys.modules[name])


def _sha256(*parts: object) -> str:
    sha = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode()
        sha.update(len(content).to_bytes(8, "little") + content)
    return sha.hexdigest()
