"""What names a run's randomness beside its seed: whatever a client's message, or the noise on it, is computed from.

Runs of one seed in which all of that is the same send the same messages: they are one release, and an ablation between them is
paired. Where any of it differs they share neither noise nor batches, nor cohorts that a price counts on: the difference of two
messages under one noise would have none. A run without a promise has no noise to share, and is named by its seed alone.

docs/privacy.md has the table of all settings, and tests/federation/test_noise_domain.py holds each of them to it.
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
"""The engine to which it makes no difference how a cohort is cut."""


@dataclass(frozen=True)
class Made:
    """What a run found and chose for itself, of all that moves a message's bits.

    Args:
        engine: the name of the engine that trains.
        device: the kind of device, ``cpu`` or ``cuda``.
        constants: a digest of what the model holds and does not train.
    """

    engine: str
    device: str
    constants: str


def fingerprint(config: ExperimentConfig, made: Made, plan: Plan, data: FederatedData) -> str:
    """Of the settings, the plan with its noise fixed, the data and who owns them, and code of somebody's own.

    Args:
        config: those of its settings count that move a message or the mechanism.
        made: what the run chose.
        plan: what it is priced at (δ) and when it ends (its budget) leave each message as it is.
        data: the members are left to :func:`with_members`.
    """
    out = _left_out(config, made)
    training = config.training
    shelves = ("task", "model", "cohort", "algorithm", "behaviour", "privacy", "server", "aggregator", "canaries")
    chosen = [one for name in shelves if out.get(name) is not True and (one := getattr(config, name)) is not None]
    items = [type(item).__module__ for item in (*chosen, training.optimizer, training.round_schedule, training.step_schedule)]
    return _sha256(config.model_dump(exclude=out), made, plan.without_terms(), data.digest(), *_own_code([*items, made.engine]))


def with_members(name: str, member_N: BoolArray) -> str:
    """A fingerprint, and who of the pool is a member."""
    return _sha256(name, np.packbits(member_N).tobytes())


def with_model(name: str, global_D: Tensor, told: Mapping[str, Tensor]) -> str:
    """A fingerprint, and the model that a round begins with.

    Settings that only follow a message, such as the aggregator's rounding, are not in a fingerprint; they show in the next
    round's model. Were the noise that of another run whose model differs, the difference of the two messages would be how a
    client's gradients differ between the two models, without any noise.

    Args:
        name: the fingerprint.
        global_D: the model.
        told: what else the clients are told of the server's state.
    """
    return _sha256(name, *(value.detach().cpu().numpy().tobytes() for value in (global_D, *told.values())))


def of_state(kept: Mapping[str, Tensor]) -> str:
    """The name of a client's state, which its message is computed from; two states never share the noise of a round."""
    return _sha256(*(value.detach().cpu().numpy().tobytes() for value in kept.values()))


def _left_out(config: ExperimentConfig, made: Made) -> dict[str, bool | set[str]]:
    """The settings that are in no name; a new one is in it until it is listed here."""
    out: dict[str, bool | set[str]] = dict.fromkeys(("name", "seed", "rounds", "evaluation", "records", "attacks"), True)
    # In the name as they were found: see Made.
    if config.training.round_schedule != Constant(kind="constant"):
        # The learning rate of a round may depend on how many there are.
        del out["rounds"]
    out |= {"device": True, "training": {"engine"} | ({"parts", "memory_budget"} if made.engine == _ONE_BY_ONE else set())}
    privacy = config.privacy
    if privacy.unnamed:
        out["privacy"] = set(privacy.unnamed)
    if privacy.noises_messages:
        # What is done to messages that have their noise is nobody's secret. Elsewhere the noise covers what comes of the
        # aggregator, rounding and losses included: two sums under one noise would lay bare in what they differ.
        out["aggregator"] = True
    return out


def _own_code(modules: Iterable[str]) -> Iterator[str]:
    """The source of modules that are not this project's: whoever edits their model and runs it again gets other noise."""
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
