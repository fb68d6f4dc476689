"""A run that takes a second: handwritten digits, ten clients, logistic regression."""

from typing import Any

from privfl.config import ExperimentConfig
from privfl.loading import loads
from privfl.privacy.plans import Federation, Plan, PlanSettings
from privfl.tables import narrow

SMALL: dict[str, Any] = {
    "name": "small",
    "rounds": 4,
    "data": {"kind": "digits", "clients": 10, "partition": {"kind": "dirichlet", "alpha": 1.0}},
    "model": {"kind": "logistic"},
    "cohort": {"kind": "poisson", "size": 5},
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.5},
    "privacy": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "aggregator": {"kind": "secure_sum"},
    "server": {"kind": "fedadam", "lr": 0.1},
}


def small(**changes: Any) -> ExperimentConfig:
    """The small run with whole tables replaced."""
    return loads({**SMALL, **changes})


def plan_for(config: ExperimentConfig, federation: Federation) -> Plan:
    """The plan of a configuration; not yet calibrated if a target ε is given."""
    return narrow(config.privacy, PlanSettings).plan(config, federation)
