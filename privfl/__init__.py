"""Federated learning with the privacy measured beside the accuracy.

The public names; each is imported from its own module when it is first asked for, so that ``import privfl`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privfl.api.epsilon import Epsilon
    from privfl.api.frame import Frame
    from privfl.api.many import compare, load_runs
    from privfl.api.outside import audit
    from privfl.api.run import Run, run
    from privfl.config import ExperimentConfig
    from privfl.errors import PrivflError
    from privfl.loading import load, loads
    from privfl.running.assembling import assemble
    from privfl.running.auditing import audited
    from privfl.running.experiment import Experiment
    from privfl.running.pricing import account

__all__ = [
    "Epsilon",
    "Experiment",
    "ExperimentConfig",
    "Frame",
    "PrivflError",
    "Run",
    "account",
    "assemble",
    "audit",
    "audited",
    "compare",
    "load",
    "load_runs",
    "loads",
    "run",
]

_HOMES = {
    "Epsilon": "api.epsilon",
    "Experiment": "running.experiment",
    "ExperimentConfig": "config",
    "Frame": "api.frame",
    "PrivflError": "errors",
    "Run": "api.run",
    "account": "running.pricing",
    "assemble": "running.assembling",
    "audit": "api.outside",
    "audited": "running.auditing",
    "compare": "api.many",
    "load": "loading",
    "load_runs": "api.many",
    "loads": "loading",
    "run": "api.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'privfl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"privfl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
