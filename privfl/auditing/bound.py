"""Upper bounds on the ROC of a membership attack that differential privacy implies.

Suffixes: E points of the privacy curve, F false-positive rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privfl.auditing.roc import OperatingPoint, Roc, clopper_pearson

FloatArray = NDArray[np.float64]


def tpr_bound(fpr: ArrayLike, epsilons: ArrayLike, deltas: ArrayLike) -> FloatArray:
    """The largest TPR of any attack at each FPR on a mechanism with this privacy curve.

    One pair (ε, δ) implies (Kairouz, Oh & Viswanath 2015, theorem 2.1; both directions of add/remove)

        TPR ≤ min(e^ε·FPR + δ, 1 − e^−ε·(1 − δ − FPR)).

    The mechanism satisfies all pairs of its curve, so the smallest of their bounds holds. It is far tighter than that of one
    pair: at ε = 8, δ = 1e-4 and an FPR of 0.1 %, one pair allows 0.9997.

    Args:
        fpr: false-positive rates in [0, 1], of shape (F,) or a number.
        epsilons: E values, each at least 0.
        deltas: E values in [0, 1], δ(ε) for each.

    Returns:
        bounds in [0, 1], of the shape of ``fpr``.
    """
    fpr_F1 = np.asarray(fpr, dtype=float)[..., None]
    eps_E, delta_E = np.asarray(epsilons, dtype=float), np.asarray(deltas, dtype=float)
    with np.errstate(over="ignore", invalid="ignore"):
        rising = np.exp(eps_E) * fpr_F1 + delta_E
    falling = 1 - np.exp(-eps_E) * (1 - delta_E - fpr_F1)
    # e^ε may overflow to infinity; times an FPR of 0 that would be NaN, but the bound is δ.
    least = np.minimum(np.where(fpr_F1 == 0, delta_E, rising), falling).min(axis=-1)
    return np.asarray(np.clip(least, 0.0, 1.0))


def fpr_bound(tpr: float, epsilons: ArrayLike, deltas: ArrayLike) -> float:
    """The lowest FPR at a TPR that a mechanism with this privacy curve allows any attack: the inverse of :func:`tpr_bound`.

        FPR ≥ max(e^−ε·(TPR − δ), 1 − δ − e^ε·(1 − TPR))

    Args:
        tpr: in [0, 1].
        epsilons: E values, each at least 0.
        deltas: E values in [0, 1], δ(ε) for each.

    Returns:
        a number in [0, 1].
    """
    eps_E, delta_E = np.asarray(epsilons, dtype=float), np.asarray(deltas, dtype=float)
    with np.errstate(over="ignore", invalid="ignore"):
        rising = np.nan_to_num(1 - delta_E - np.exp(eps_E) * (1 - tpr), nan=0.0, neginf=0.0)
    return float(np.clip(np.maximum(np.exp(-eps_E) * (tpr - delta_E), rising).max(), 0.0, 1.0))


@dataclass(frozen=True)
class NoiseFamily:
    """The mechanism that a run used, with its noise left open: what a lower bound on the noise refutes.

    Args:
        promised: the noise multiplier of the run.
        curve: noise multiplier -> ε and δ(ε) of the whole run with that noise, two sequences of E values; None if the
            mechanism takes no noise that large.
        samples: sample rate and number of steps of each client's history of Gaussian releases; empty for other mechanisms.
    """

    promised: float
    curve: Callable[[float], tuple[Sequence[float], Sequence[float]] | None]
    samples: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class PrivacyCurve:
    """The privacy curve δ(ε) that a run promises for one candidate in or out, and the quoted pair (ε, δ) on it.

    Args:
        epsilons: E values of ε, each at least 0.
        deltas: δ(ε) at each of them.
        epsilon: the promised ε at ``delta``.
        delta: the promised δ; the audits use it too.
        noise: the mechanism with its noise left open; None if it is not known.
    """

    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]
    epsilon: float
    delta: float
    noise: NoiseFamily | None = None

    def tpr(self, fpr: ArrayLike) -> FloatArray:
        """:func:`tpr_bound` of this curve."""
        return tpr_bound(fpr, self.epsilons, self.deltas)


def violates(curve: Roc, point: OperatingPoint, promised: PrivacyCurve, alpha: float) -> bool | None:
    """Whether an attack exceeded the DP bound by more than chance; None if the sample cannot resolve the FPR.

    It did if the lower limit of its TPR is above the bound at the *upper* limit of its FPR, each limit one-sided at
    alpha / 2. With K = floor(FPR·n) false positives allowed, the true FPR of the rule is stochastically at most
    Beta(K + 1, n − K) (an order statistic of the non-members), whose upper quantile is that of Clopper and Pearson. So a
    true promise is called violated with a probability of at most ``alpha``.

    This treats candidates as independent trials. Within one training run they are only nearly independent, so the verdict
    is a screen. The rigorous figure from one run is the ε of :func:`privfl.auditing.epsilon.one_run_audit`.
    """
    if point.tpr is None:
        return None
    false_positives = int(point.fpr * curve.nonmembers * (1 + 1e-12))
    _, fpr_high = clopper_pearson(false_positives, curve.nonmembers, 1 - alpha)
    tpr_low, _ = clopper_pearson(round(point.tpr.value * curve.members), curve.members, 1 - alpha)
    return bool(tpr_low > promised.tpr(fpr_high))
