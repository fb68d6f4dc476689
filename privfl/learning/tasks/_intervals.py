"""Estimates with intervals, over examples that are independent of each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from privfl.auditing import clopper_pearson
from privfl.errors import ModelError
from privfl.records import Interval


def share(right_N: Tensor, level: float) -> Interval:
    """A share of examples, with the exact interval of Clopper & Pearson (1934)."""
    count, right = len(right_N), int(right_N.sum())
    low, high = clopper_pearson(right, count, level)
    return Interval(value=right / count, low=float(low), high=float(high), n=count, level=level)


def mean(values_N: Tensor, level: float) -> Interval:
    """The mean of those values that are finite, with the normal interval (the central limit theorem over examples).

    Raises:
        ModelError: none is finite; the model diverged.
    """
    found = values_N.cpu().numpy()
    found = found[np.isfinite(found)]
    _require_any(found)
    value = float(found.mean())
    half = _quantile(level) * found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else 0.0
    return Interval(value=value, low=value - float(half), high=value + float(half), n=len(found), level=level)


def ratio(above_N: Tensor, below_N: Tensor, level: float) -> Interval:
    """Σ above / Σ below over the examples for which both are finite, with the normal interval of a ratio of means.

    The interval is the delta method's (Cochran 1977, "Sampling Techniques", section 6.4). The ratio is 0 if
    nothing is below.

    Raises:
        ModelError: no example is finite; the model diverged.
    """
    above, below = above_N.cpu().double().numpy(), below_N.cpu().double().numpy()
    finite = np.isfinite(above) & np.isfinite(below)
    above, below = above[finite], below[finite]
    _require_any(above)
    total, count = float(below.sum()), len(above)
    value = float(above.sum()) / total if total else 0.0
    half = 0.0
    if count > 1 and total:
        half = _quantile(level) * float((above - value * below).std(ddof=1)) * np.sqrt(count) / total
    return Interval(value=value, low=value - float(half), high=value + float(half), n=count, level=level)


def mapped(found: Interval, function: Callable[[float], float]) -> Interval:
    """The interval of a never-falling function of the estimated value."""
    return found.model_copy(update={end: function(getattr(found, end)) for end in ("value", "low", "high")})


def _quantile(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))


def _require_any(found: NDArray[np.float64]) -> None:
    if len(found) == 0:
        raise ModelError("the model's outputs are not finite, training diverged; lower training.lr")
