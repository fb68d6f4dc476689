"""BOOK of privacy auditing: from the scores of a membership attack to estimates and bounds. NumPy and SciPy only.

Read the chapters in this order:

- ``roc``: the ROC curve, its area, and the TPR at a low FPR, with intervals, or the reason why there is no figure;
- ``bound``: the largest TPR that differential privacy allows, and the test whether an attack exceeds it;
- ``epsilon``: lower bounds on ε from the right guesses of an attack, valid for any mechanism;
- ``noise``: lower bounds on µ, which refute Gaussian noise of a claimed scale and say nothing about other noise;
- ``similarity``: PSNR and SSIM of reconstructed inputs, their assignment to true ones, and the interval of a median;
- ``evaluation``: the figures of all attacks of a run, and the best attack, chosen and measured on different candidates.

In all chapters a candidate is an example whose membership was drawn by an independent fair coin, and a higher score means
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
from privfl.auditing.evaluation import (
    AttackEvaluation,
    BestVariant,
    Scores,
    VariantFigures,
    best_of,
    evaluate,
    require_both_kinds,
)
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
    "AttackEvaluation",
    "BestVariant",
    "EpsilonBound",
    "Estimate",
    "Guesses",
    "NoiseBound",
    "OperatingPoint",
    "PrivacyCurve",
    "Roc",
    "Scores",
    "VariantFigures",
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
