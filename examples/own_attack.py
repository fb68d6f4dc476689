"""Attack a run by an idea of your own: what the model is sure of, it was trained on.

Run it from the folder above: python -m examples.own_attack
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

import privfl
from attacks.membership import Evidence, FloatArray, MembershipAttack
from privfl.auditing.questions.membership import MembershipFinding


class Confidence(MembershipAttack):
    """The distance between the two largest logits."""

    threat: ClassVar[str] = "Sees the final model's outputs and wants to know who was trained on."

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """A score for each candidate; higher means member."""
        two_N2 = np.partition(evidence.logits_NC, -2, axis=1)[:, -2:]
        return {"margin": np.ptp(two_N2, axis=1).astype(np.float64)}


SETTINGS = {
    "name": "own-attack",
    "rounds": 3,
    "data": {"kind": "digits", "clients": 5, "partition": {"kind": "iid"}, "holdout": 0.5},
    "model": {"kind": "mlp", "hidden": [32]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 10, "batch_size": 16, "lr": 0.5},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"shadow_models": 0},
}

if __name__ == "__main__":
    run = privfl.run(privfl.loads(SETTINGS))
    (found,) = run.attack("examples.own_attack", "membership/loss")
    assert isinstance(found, MembershipFinding)
    for one in found.attacks:
        print(f"{one.attack}: AUC {one.auc.value:.3f} ({one.auc.low:.3f} to {one.auc.high:.3f})")
