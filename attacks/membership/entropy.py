"""The entropy attack: a model is sure of its members. No shadow models, and no label (Shokri 2017; Song & Mittal 2021)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks.membership import Evidence, FloatArray, MembershipAttack, classes_of
from attacks.membership._entropies import entropy
from privfl.running.knowledge import Prospect


class Entropy(MembershipAttack):
    """The entropy of the target's output alone, Σ p_c log p_c, whatever the label is.

    It knows no label, so that it finds less than the loss; the modified entropy, which knows it, is a variant of
    ``membership/loss``. Only for tasks of several classes.
    """

    threat: ClassVar[str] = "An adversary with the final model's outputs, but no labels, wants to know who was trained on."

    needs: ClassVar[str] = "the final model; a task with classes"

    cost: ClassVar[str] = "a pass forward over the candidates"

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the task has classes."""
        classes_of(self, prospect.network.task, np.zeros((1, *prospect.network.outputs), np.float32))
        super().require_possible(prospect)

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`.

        Raises:
            ConfigError: the task has no classes.
        """
        return {"entropy": -entropy(classes_of(self, evidence.task, evidence.logits_NC))}
