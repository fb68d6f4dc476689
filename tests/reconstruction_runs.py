"""Small runs of one round and one local step, in which reconstruction works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attacks._run import run_attacks
from privfl.auditing.questions.reconstruction import ReconstructionFinding, ReconstructionRecord
from privfl.loading import loads
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder

ONE_STEP: dict[str, Any] = {
    "name": "one_step",
    "rounds": 1,
    "data": {"kind": "digits", "clients": 1438, "holdout": 1e-9},
    "model": {"kind": "mlp", "hidden": [32], "activation": "tanh"},
    "cohort": {"kind": "fixed", "size": 6},
    "training": {"local_steps": 1, "batch_size": 64, "lr": 1.0},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
}
"""Each client owns one example, and all of them train on it."""


def owning(examples: int) -> dict[str, Any]:
    """Clients that own so many examples, or one more."""
    return {"data": {"kind": "digits", "clients": 1438 // examples, "holdout": 1e-9}}


def began(path: Path, *items: dict[str, Any] | str, **changes: Any) -> RunFolder:
    """A run with these attacks."""
    return run(loads({**ONE_STEP, **changes, "attacks": {"run": list(items), "shadow_models": 0}}), path)


def attacked(path: Path, *items: dict[str, Any] | str, **changes: Any) -> dict[str, ReconstructionRecord]:
    """What these attacks on a run found, by attack and variant."""
    (finding,) = run_attacks(began(path, *items, **changes))
    assert isinstance(finding, ReconstructionFinding)
    return {f"{one.attack.rpartition('/')[2]}: {one.variant}": one for one in finding.attacks}


def psnr(record: ReconstructionRecord) -> float:
    """The median PSNR of images."""
    assert record.measures[0].name == "PSNR"
    return record.measures[0].median.value
