"""The loss of an example at every global model of a run."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks import Attack
from attacks.membership._updates import losses
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.running.knowledge import Knowledge
from privfl.running.views import ClientView, View


class LossOverRounds(Attack):
    """Is the loss of this example lower over the rounds, and does it fall faster?

    The losses are those at the model that each round began with, and at the final model. The first of them say how hard an
    example is, which the loss at the final model alone does not. No shadow models.

    Variants:
        ``mean``: minus the mean loss over all models.
        ``slope``: minus the slope of the line of least squares through the losses, per round.
        ``fall``: the loss at the first model minus the loss at the last.
    """

    adversary: ClassVar[Adversary] = "client"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A client that kept every global model and has an example wants to know whether it was trained on."

    needs: ClassVar[str] = "every global model"

    cost: ClassVar[str] = "a pass forward over the candidates in each round"

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`."""
        assert isinstance(view, ClientView)
        rounds = view.rounds()
        models = [*(view.model_before(number) for number in rounds), view.final_model()]
        losses_TN = np.stack([losses(knowledge, model_D) for model_D in models])
        times_T = np.array([*rounds, rounds[-1] + 1], dtype=np.float64)
        times_T -= times_T.mean()
        return MembershipClaim(
            {
                "mean": -losses_TN.mean(0),
                "slope": -(times_T @ losses_TN) / (times_T**2).sum(),
                "fall": losses_TN[0] - losses_TN[-1],
            }
        )
