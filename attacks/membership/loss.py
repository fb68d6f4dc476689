"""The loss attack: members have a smaller loss. No shadow models."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy import special

from attacks.membership import Evidence, FloatArray, LabelArray, MembershipAttack
from attacks.membership._sides import surprise


class Loss(MembershipAttack):
    """One threshold for all candidates, on the target's output alone; every other attack must beat it.

    Variants:
        ``loss``: minus the loss, the cross-entropy of a classifier (Yeom 2018, section 3.2).
        ``modified entropy``: minus the entropy that knows the label (Song & Mittal 2021, equation 8); only
            if an example has one class of several.
    """

    threat: ClassVar[str] = "An adversary with the final model and an example wants to know whether it was trained on."

    needs: ClassVar[str] = "the final model"

    cost: ClassVar[str] = "a pass forward over the candidates"

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        margin_N = evidence.signals.target_N
        loss_N = surprise(margin_N)
        log_NC = evidence.task.log_probabilities(evidence.logits_NC)
        if log_NC is None:
            return {"loss": -loss_N}
        return {"loss": -loss_N, "modified entropy": -modified_entropy(log_NC, evidence.labels_N, margin_N)}


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
