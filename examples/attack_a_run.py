"""Attack a run, and read what was found beside what was promised.

Run it from the folder above: python -m examples.attack_a_run
"""

from __future__ import annotations

import privfl
from privfl.auditing.questions.membership import MembershipFinding

SETTINGS = {
    "name": "attacked",
    "rounds": 2,
    "data": {"kind": "digits", "clients": 5, "partition": {"kind": "iid"}, "holdout": 0.5},
    "model": {"kind": "mlp", "hidden": [32]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 5, "batch_size": 16, "lr": 0.5},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "secure_sum"},
    "server": {"kind": "fedavg"},
}

if __name__ == "__main__":
    run = privfl.run(privfl.loads(SETTINGS))
    (found,) = run.attack("membership/loss", "membership/rmia", shadow_models=2)
    assert isinstance(found, MembershipFinding)
    for one in found.attacks:
        print(f"{one.attack} ({one.variant}): AUC {one.auc.value:.3f}")
    # The best attack was chosen on one half of the candidates, and is measured on the other.
    best = found.best
    for rate in best.rates:
        shown = rate.reason if rate.tpr is None else f"{rate.tpr.value:.1%} of the members"
        print(f"{best.attack} at a false positive rate of {rate.fpr:.1%}: {shown}")
    print(f"promised ε: {run.epsilon}; measured: at least {best.epsilon_lower:.2f}")
    print(run.page())
