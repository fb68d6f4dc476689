"""False-positive rates of single examples: one threshold for all examples is not one rate for each of them (arXiv 2605.25819).

A shadow model that plays the target gives each example that it was not trained on a score, and a threshold that falsely
accuses 1 % over all examples accuses some of them far more often, and most of them never.

Suffixes: M models that played the target, N examples, F false-positive rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from privfl.auditing.evaluation import FPRS
from privfl.auditing.roc import Estimate, clopper_pearson
from privfl.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class FalsePositives:
    """How many of the models that were not trained on an example accuse it, at one threshold for all examples.

    Args:
        accused_FN: the models in which the example's score is above the threshold that belongs to each of ``FPRS``.
        models_N: the models that were not trained on the example.
    """

    accused_FN: IntArray
    models_N: IntArray

    @classmethod
    def of(cls, scores_MN: FloatArray, out_MN: BoolArray) -> Self:
        """The counts at the thresholds that accuse at most each of ``FPRS`` of all scores without training.

        Args:
            scores_MN: each model's scores; higher means member.
            out_MN: whether the model was not trained on the example.

        Raises:
            DataError: a score is NaN, or each model was trained on each example.
        """
        if np.isnan(scores_MN).any() or not out_MN.any():
            raise DataError(
                f"scores of {len(scores_MN)} models: some are NaN, or no example was left out of a model; check both"
            )
        down = -np.sort(-scores_MN[out_MN])
        thresholds_F = down[[int(len(down) * fpr * (1 + 1e-12)) for fpr in FPRS]]
        accused_FN = np.stack([((scores_MN > threshold) & out_MN).sum(axis=0) for threshold in thresholds_F])
        return cls(accused_FN, out_MN.sum(axis=0))


@dataclass(frozen=True)
class ExampleRates:
    """The false-positive rates of single examples at the threshold for ``fpr`` over all of them.

    Args:
        fpr: the nominal rate over all examples.
        pooled: the rate over all examples and models; below ``fpr`` if scores tie.
        worst: the largest share of models that accuse an example. The interval is of the largest *rate*: with probability
            ``level`` no example's rate is above ``high``, and some example's is at least ``low``.
        worst_by_chance: the 95 % quantile of the largest share if each example had the pooled rate.
        spread: the standard deviation of the rate over examples, without the part that so few models add by chance.
        never: the share of the examples that no model accuses.
        models: the least number of models per example.
    """

    fpr: float
    pooled: float
    worst: Estimate
    worst_by_chance: float
    spread: Estimate
    never: float
    models: int


def example_rates(found: FalsePositives, fpr: float, level: float = 0.95) -> ExampleRates | None:
    """The rates at one of ``FPRS``; None if ties leave no threshold with at least half of that rate.

    The models of an example count as independent trials.
    """
    seen_N = found.models_N > 1
    models_N, accused_N = found.models_N[seen_N], found.accused_FN[FPRS.index(fpr)][seen_N]
    if not len(models_N) or (pooled := accused_N.sum() / models_N.sum()) < fpr / 2:
        return None
    share_N = accused_N / models_N
    low_N, high_N = clopper_pearson(accused_N, models_N, 1 - (1 - level) / len(models_N))
    return ExampleRates(
        fpr=fpr,
        pooled=float(pooled),
        worst=Estimate(float(share_N.max()), float(low_N.max()), float(high_N.max()), level, "Clopper–Pearson, all examples"),
        worst_by_chance=_largest_by_chance(models_N, float(pooled), level),
        spread=_spread(share_N, models_N, float(pooled), level),
        never=float(np.mean(accused_N == 0)),
        models=int(models_N.min()),
    )


def _largest_by_chance(models_N: IntArray, rate: float, level: float) -> float:
    """The least share that no example exceeds with probability ``level``, if each of its models accuses it at that rate."""
    sizes, counts = np.unique(models_N, return_counts=True)
    shares = np.unique(np.concatenate([np.arange(size + 1) / size for size in sizes]))
    below = stats.binom.cdf(np.floor(shares[:, None] * sizes + 1e-9), sizes, rate)
    return float(shares[np.argmax((counts * np.log(np.maximum(below, 1e-300))).sum(axis=1) >= np.log(level))])


def _spread(share_N: FloatArray, models_N: IntArray, rate: float, level: float) -> Estimate:
    """The deviation of the rate by its moments: E(share − rate)² − E share·(1 − share)/(models − 1)."""
    excess_N = (share_N - rate) ** 2 - share_N * (1 - share_N) / (models_N - 1)
    error = special.ndtri((1 + level) / 2) * excess_N.std() / np.sqrt(len(excess_N))
    value, low, high = (float(np.sqrt(max(0.0, excess_N.mean() + side * error))) for side in (0, -1, 1))
    return Estimate(value, low, high, level, "moments")
