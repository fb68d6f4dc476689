"""BOOK of measuring leakage: from a score per candidate to what may be said about it. NumPy and SciPy only.

A package, for one file would be too long. Its chapters, in order:

- ``roc``: the curve, its area, and the TPR at a low FPR, with intervals, or the reason why there is no figure;
- ``bound``: what differential privacy allows on that same curve, and whether an attack went beyond it;
- ``epsilon``: lower bounds on ε from what an attack got right, valid for any mechanism;
- ``noise``: lower bounds on µ, which refute Gaussian noise of a claimed scale and say nothing of other noise;
- ``similarity``: how like reconstructed inputs are to true ones;
- ``evaluation``: every attack of a run at once, and the best of them, chosen honestly.

Everywhere a candidate is an example whose membership was drawn by an independent fair coin, and a higher score means
"member".
"""

from __future__ import annotations

from privfl.auditing.bound import PrivacyCurve, tpr_bound
from privfl.auditing.epsilon import (
    EpsilonBound,
    Guesses,
    chosen_guesses,
    clopper_pearson_audit,
    one_run_audit,
    one_run_epsilon,
    two_sided_epsilon,
)
from privfl.auditing.evaluation import Best, Evaluation, Leakage, Scores, best_of, evaluate, require_both_kinds
from privfl.auditing.noise import NoiseBound, gaussian_pair_audit, gdp_audit, one_run_mu, one_run_noise_audit
from privfl.auditing.roc import (
    Estimate,
    OperatingPoint,
    Roc,
    auc,
    balanced_accuracy,
    best_balanced_accuracy,
    best_threshold,
    clopper_pearson,
    operating_point,
    roc,
)

__all__ = [
    "Best",
    "EpsilonBound",
    "Estimate",
    "Evaluation",
    "Guesses",
    "Leakage",
    "NoiseBound",
    "OperatingPoint",
    "PrivacyCurve",
    "Roc",
    "Scores",
    "auc",
    "balanced_accuracy",
    "best_balanced_accuracy",
    "best_of",
    "best_threshold",
    "chosen_guesses",
    "clopper_pearson",
    "clopper_pearson_audit",
    "evaluate",
    "gaussian_pair_audit",
    "gdp_audit",
    "one_run_audit",
    "one_run_epsilon",
    "one_run_mu",
    "one_run_noise_audit",
    "operating_point",
    "require_both_kinds",
    "roc",
    "tpr_bound",
    "two_sided_epsilon",
]
