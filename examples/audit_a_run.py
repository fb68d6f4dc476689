"""Audit a run: does it keep its promise?

Run it from the folder above: python -m examples.audit_a_run
"""

from __future__ import annotations

import privfl
from privfl.auditing.questions.epsilon import EpsilonFinding
from privfl.auditing.questions.estimate import EstimateFinding
from privfl.auditing.questions.noise import NoiseFinding

SETTINGS = {
    "name": "digits",
    "rounds": 4,
    "data": {"kind": "digits", "clients": 2},
    "model": {"kind": "mlp", "hidden": [32]},
    "cohort": {"kind": "all"},
    "training": {"local_steps": 1, "batch_size": 2000, "lr": 0.1},
    "privacy": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
}

if __name__ == "__main__":
    # The same run with 800 canaries, each in or out by a fair coin, and with the audits that it allows.
    run = privfl.run(privfl.audited(privfl.loads(SETTINGS), 800))
    for found in run.attack():
        if isinstance(found, EpsilonFinding):
            best = max(found.audits, key=lambda one: one.epsilon_lower)
            print(f"{found.adversary}: ε is at least {best.epsilon_lower:.2f}; promised is {found.promised:.2f}")
        elif isinstance(found, NoiseFinding):
            for one in found.audits:
                shown = "not refuted" if one.below is None else f"below {one.below:.2f}"
                print(f"{found.adversary}, {one.variant}, {one.method}: the noise multiplier is {shown}")
            print(f"{found.adversary}: promised is {found.promised:.2f}, {'refuted' if found.contradicts() else 'not refuted'}")
        elif isinstance(found, EstimateFinding):
            print(f"estimate of ε for the final model, no bound: {found.last_iterate:.2f}")
    print(run.page())
