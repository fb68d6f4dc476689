"""The loss attack: members have a smaller loss. No shadow models."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy import special

from attacks.membership import Evidence, FloatArray, MembershipAttack
from attacks.membership._signals import stable_logit


class Loss(MembershipAttack):
    """One threshold for all candidates, on the target's output alone; what every other attack must beat.

    Variants:
        ``loss``: minus the cross-entropy (Yeom 2018, section 3.2).
        ``modified entropy``: minus the entropy that knows the label (Song & Mittal 2021, equation 8).
    """

    threat: ClassVar[str] = "Whoever has the final model and an example wants to know whether it was trained on, from its loss."

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        margin_N = stable_logit(evidence.logits_NC, evidence.labels_N)
        # log p_y = −log(1 + e^−φ): of all functions of p_y the one that does not round to 0 for a confident output.
        loss_N = np.logaddexp(0.0, -margin_N)
        return {"loss": -loss_N, "modified entropy": -_modified_entropy(evidence, margin_N)}


def _modified_entropy(evidence: Evidence, margin_N: FloatArray) -> FloatArray:
    """−(1 − p_y)·log p_y − Σ_{c≠y} p_c·log(1 − p_c)."""
    logits_NC = evidence.logits_NC.astype(np.float64)
    others_NC = special.softmax(logits_NC, axis=1)
    others_NC[np.arange(len(others_NC)), evidence.labels_N] = 0.0
    others_N = special.xlog1py(others_NC, -np.minimum(others_NC, 1 - np.finfo(float).eps)).sum(axis=1)
    return np.asarray(special.expit(-margin_N) * np.logaddexp(0.0, -margin_N) - others_N)
