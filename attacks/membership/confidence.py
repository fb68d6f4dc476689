"""The confidence attack: a model is sure of its members. No shadow models, and no label (Salem et al. 2019, section 5)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy import special

from attacks.membership import Evidence, FloatArray, MembershipAttack, classes_of
from privfl.running.knowledge import Prospect


class Confidence(MembershipAttack):
    """The probability of the likeliest class, whatever the label is.

    It is given as log-odds, log p − log(1 − p), so that very confident outputs do not tie. The confidence in the *label* is the
    loss of ``membership/loss``. Only for tasks of several classes.
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
        log_NC = np.sort(classes_of(self, evidence.task, evidence.logits_NC), axis=1)
        return {"confidence": log_NC[:, -1] - special.logsumexp(log_NC[:, :-1], axis=1)}
