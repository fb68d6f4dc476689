"""The loss attack: members have a smaller loss. No shadow models."""

from __future__ import annotations

from typing import ClassVar

from attacks.membership import Evidence, FloatArray, MembershipAttack
from attacks.membership._entropies import modified_entropy
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
