"""Federated learning with the privacy measured beside the accuracy.

The public names; each is imported from its own module when it is first asked for, so that ``import privfl`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privfl.attacking import attack
    from privfl.config import ExperimentConfig
    from privfl.errors import PrivflError
    from privfl.experiment import Experiment, assemble
    from privfl.loading import load
    from privfl.pricing import account
    from privfl.recording import run
    from privfl.report import write_report
    from privfl.runs import RunFolder
    from privfl.views import open_view

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
    "Experiment": "experiment",
    "ExperimentConfig": "config",
    "PrivflError": "errors",
    "RunFolder": "runs",
    "account": "pricing",
    "assemble": "experiment",
    "attack": "attacking",
    "load": "loading",
    "open_view": "views",
    "run": "recording",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'privfl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"privfl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
