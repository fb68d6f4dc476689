"""The entropy of a classifier's output, and the one that knows the label; both in nats."""

from __future__ import annotations

import numpy as np
from scipy import special

from attacks.membership import FloatArray, LabelArray
from attacks.membership._sides import surprise


def entropy(log_NC: FloatArray) -> FloatArray:
    """−Σ p_c log p_c.

    Args:
        log_NC: log p_c.
    """
    return np.asarray(-(np.exp(log_NC) * log_NC).sum(axis=1))


def modified_entropy(log_NC: FloatArray, labels_N: LabelArray, margin_N: FloatArray) -> FloatArray:
    """−(1 − p_y)·log p_y − Σ_{c≠y} p_c·log(1 − p_c), exact for outputs that are confident and wrong.

    Args:
        log_NC: log p_c.
        labels_N: y.
        margin_N: log(p_y / (1 − p_y)).
    """
    rows, top_N = np.arange(len(log_NC)), log_NC.argmax(axis=1)
    # For the likeliest class 1 − p_c would round the others away, so they are summed. No other class has p_c above 1/2.
    others_NC = log_NC.copy()
    others_NC[rows, top_N] = -np.inf
    rest_NC = np.log1p(-np.minimum(np.exp(log_NC), 0.5))
    rest_NC[rows, top_N] = special.logsumexp(others_NC, axis=1)
    terms_NC = np.exp(log_NC) * rest_NC
    terms_NC[rows, labels_N] = 0.0
    return np.asarray(special.expit(-margin_N) * surprise(margin_N) - terms_NC.sum(axis=1))
