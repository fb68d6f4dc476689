"""The loss attack: members have a smaller loss. No shadow models."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy import special

from attacks.membership import Evidence, FloatArray, MembershipAttack


class Loss(MembershipAttack):
    """One threshold for all candidates, on the target's output alone; what every other attack must beat.

    Variants:
        ``loss``: minus the loss, the cross-entropy of a classifier (Yeom 2018, section 3.2).
        ``modified entropy``: minus the entropy that knows the label (Song & Mittal 2021, equation 8); only
            if an example has one class of several.
    """

    threat: ClassVar[str] = "Whoever has the final model and an example wants to know whether it was trained on, from its loss."

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        margin_N = evidence.task.confidence(evidence.logits_NC, evidence.labels_N)
        # log p_y = −log(1 + e^−φ): of all functions of p_y the one that does not round to 0 for a confident output.
        loss_N = np.logaddexp(0.0, -margin_N)
        others_NC = evidence.task.probabilities(evidence.logits_NC)
        if others_NC is None:
            return {"loss": -loss_N}
        return {"loss": -loss_N, "modified entropy": -_modified_entropy(others_NC, evidence, margin_N)}


def _modified_entropy(others_NC: FloatArray, evidence: Evidence, margin_N: FloatArray) -> FloatArray:
    """−(1 − p_y)·log p_y − Σ_{c≠y} p_c·log(1 − p_c); the probabilities of all classes are used up."""
    others_NC[np.arange(len(others_NC)), evidence.labels_N] = 0.0
    others_N = special.xlog1py(others_NC, -np.minimum(others_NC, 1 - np.finfo(float).eps)).sum(axis=1)
    return np.asarray(special.expit(-margin_N) * np.logaddexp(0.0, -margin_N) - others_N)
