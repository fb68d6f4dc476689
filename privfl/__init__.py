"""Federated learning with the privacy measured beside the accuracy.

The public names; each is imported from its own module when it is first asked for, so that ``import privfl`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privfl.config import ExperimentConfig
    from privfl.errors import PrivflError
    from privfl.loading import load
    from privfl.report import write_report
    from privfl.running.attacking import attack
    from privfl.running.experiment import Experiment, assemble
    from privfl.running.pricing import account
    from privfl.running.recording import run
    from privfl.running.run_folder import RunFolder
    from privfl.running.views import open_view

__all__ = [
    "Experiment",
    "ExperimentConfig",
    "PrivflError",
    "RunFolder",
    "account",
    "assemble",
    "attack",
    "load",
    "open_view",
    "run",
    "write_report",
]

_HOMES = {
    "Experiment": "running.experiment",
    "ExperimentConfig": "config",
    "PrivflError": "errors",
    "RunFolder": "running.run_folder",
    "account": "running.pricing",
    "assemble": "running.experiment",
    "attack": "running.attacking",
    "load": "loading",
    "open_view": "running.views",
    "run": "running.recording",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'privfl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"privfl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
