"""Shares of right answers, and differences of two shares, with their intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privfl.auditing.roc import clopper_pearson
from privfl.records import Interval


def share(right: int, of: int) -> Interval:
    """A share with the interval of Clopper and Pearson; of nothing it is 0, from 0 to 1."""
    if not of:
        return Interval(value=0.0, low=0.0, high=1.0, n=0)
    low, high = clopper_pearson(right, of)
    return Interval(value=int(right) / of, low=float(low), high=float(high), n=of)


def difference(first_n: NDArray[np.bool_], second_m: NDArray[np.bool_], level: float = 0.95) -> Interval:
    """The share of the first sample minus that of the second, independent of it (Agresti & Caffo 2000).

    The interval is Wald's after one success and one failure more in each sample.

    Args:
        first_n: right or not, of n ≥ 1.
        second_m: the same of m ≥ 1.
        level: of the interval.
    """
    value = float(first_n.mean() - second_m.mean())
    shares = [(one.sum() + 1) / (len(one) + 2) for one in (first_n, second_m)]
    spread = sum(p * (1 - p) / (len(one) + 2) for p, one in zip(shares, (first_n, second_m), strict=True))
    return _around(value, float(shares[0] - shares[1]), float(np.sqrt(spread)), len(first_n) + len(second_m), level)


def paired_difference(first_n: NDArray[np.bool_], second_n: NDArray[np.bool_], level: float = 0.95) -> Interval:
    """The share of the first minus that of the second, of the same n ≥ 1 (Agresti & Min 2005).

    The interval is Wald's after half a pair more in each of the four cells.
    """
    count, total = len(first_n), len(first_n) + 2
    gained, lost = (first_n & ~second_n).sum() + 0.5, (second_n & ~first_n).sum() + 0.5
    spread = np.sqrt(gained + lost - (gained - lost) ** 2 / total) / total
    value = float(first_n.mean() - second_n.mean())
    return _around(value, float((gained - lost) / total), float(spread), count, level)


def _around(value: float, middle: float, spread: float, count: int, level: float) -> Interval:
    reach = float(stats.norm.ppf((1 + level) / 2)) * spread
    # The middle is drawn towards 0, and the value itself must not lie outside.
    low, high = min(middle - reach, value), max(middle + reach, value)
    return Interval(value=value, low=max(low, -1.0), high=min(high, 1.0), n=count, level=level)
