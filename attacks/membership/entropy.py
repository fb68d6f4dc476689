"""The entropy attack: a model is sure of its members. No shadow models, and no label (Shokri 2017; Song & Mittal 2021)."""

from __future__ import annotations

from typing import ClassVar

from attacks.membership import Evidence, FloatArray, MembershipAttack
from attacks.membership._entropies import entropy
from privfl.errors import ConfigError


class Entropy(MembershipAttack):
    """The entropy of the target's output alone, Σ p_c log p_c, whatever the label is.

    It knows no label, so that it finds less than the loss; the modified entropy, which knows it, is a variant of
    ``membership/loss``. Only for tasks of several classes.
    """

    threat: ClassVar[str] = "An adversary with the final model's outputs, but no labels, wants to know who was trained on."

    needs: ClassVar[str] = "the final model; a task with classes"

    cost: ClassVar[str] = "a pass forward over the candidates"

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`.

        Raises:
            ConfigError: the task has no classes.
        """
        log_NC = evidence.task.log_probabilities(evidence.logits_NC)
        if log_NC is None:
            raise ConfigError(
                f"attacks.run: {self.kind!r} needs one class of several, and task = {evidence.task.kind!r}: take it out"
            )
        return {"entropy": -entropy(log_NC)}
