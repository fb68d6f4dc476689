"""What names a run's randomness beside its seed, so that no two runs that differ in anything share their noise."""

from __future__ import annotations

import hashlib

import numpy as np

from privfl.config import ExperimentConfig
from privfl.federated import BoolArray, FederatedData
from privfl.privacy.plan import Plan

_USUAL = "fused"
"""The engine that most runs are trained by."""


def settings_digest(config: ExperimentConfig) -> str:
    """Of all settings that move the training, the seed among them, and of nothing that is computed from them.

    Runs that agree in it and take their randomness from the seed draw the same.
    """
    return hashlib.sha256(repr(_moving(config)).encode()).hexdigest()


def fingerprint(config: ExperimentConfig, plan: Plan, data: FederatedData, engine: str) -> str:
    """Of the settings, the plan with its noise fixed, the data and who owns them, and the engine that was chosen."""
    another = () if engine == _USUAL else (engine,)
    return hashlib.sha256(repr((_moving(config), plan, data.digest(), *another)).encode()).hexdigest()


def with_members(name: str, member_N: BoolArray) -> str:
    """A fingerprint, and who of the pool is a member."""
    return hashlib.sha256(name.encode() + np.packbits(member_N).tobytes()).hexdigest()


def _moving(config: ExperimentConfig) -> dict[str, object]:
    apart: dict[str, bool | set[str]] = dict.fromkeys(("name", "device", "evaluation", "records", "attacks"), True)
    # How a cohort is computed moves rounding, Dropout's zeros, and which example overflows: whoever asks for another way gets
    # other noise. What a run chooses for itself is in its fingerprint.
    training = config.training
    usual = {
        "engine": training.engine in ("auto", _USUAL),
        "parts": training.parts is None,
        "memory_budget": training.memory_budget is None,
    }
    apart["training"] = {name for name, left_out in usual.items() if left_out}
    return config.model_dump(exclude=apart)
