"""Signals that attacks compute from logits, in float64, without overflow and without ties at confident outputs."""

from __future__ import annotations

import numpy as np
from scipy import special

from attacks.membership import FloatArray, IntArray, LogitArray


def stable_logit(logits: LogitArray, labels: IntArray) -> FloatArray:
    """z_y − log Σ_{c≠y} exp(z_c) = log(p_y / (1 − p_y)) (Carlini 2022, section VI.A).

    From the probability it would be infinite for every confident output, and all of these would tie.

    Args:
        logits: of shape (..., M, C).
        labels: of shape (M,).

    Returns:
        of shape (..., M).
    """
    wide = logits.astype(np.float64)
    others = wide.copy()
    index = np.arange(len(labels))
    others[..., index, labels] = -np.inf
    return np.asarray(wide[..., index, labels] - special.logsumexp(others, axis=-1), dtype=np.float64)


def confidence(logits: LogitArray, labels: IntArray) -> FloatArray:
    """The probability of the true class, of shape (..., M)."""
    return np.asarray(special.expit(stable_logit(logits, labels)), dtype=np.float64)
