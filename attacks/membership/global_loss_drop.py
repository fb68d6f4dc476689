"""The fall of an example's loss at the global model in the rounds with its client, beside that in the rounds without."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks import Attack
from attacks.membership import FloatArray
from attacks.membership._updates import losses
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.running.knowledge import Knowledge
from privfl.running.views import ServerView, View


class GlobalLossDrop(Attack):
    """Does the loss of this example fall at the global model whenever its client takes part?

    The loss at the model that a round began with minus the loss at the next one, less the mean of that over all candidates. The
    server reads who took part off its own record, also under secure aggregation. No shadow models.

    Variants:
        ``drop``: the mean over the rounds with the example's client, minus the mean over those without; either is 0 if there
        are no such rounds.
    """

    adversary: ClassVar[Adversary] = "server"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A server that sees sums of updates and has an example wants to know whether it was trained on."

    needs: ClassVar[str] = "every global model, and who took part"

    cost: ClassVar[str] = "a pass forward over the candidates in each round"

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`."""
        assert isinstance(view, ServerView)
        rounds, client_N = view.rounds(), knowledge.candidates.client_N
        models = [*(view.model_before(number) for number in rounds), view.final_model()]
        losses_TN = np.stack([losses(knowledge, model_D) for model_D in models])
        drop_TN = losses_TN[:-1] - losses_TN[1:]
        drop_TN -= drop_TN.mean(1, keepdims=True)
        there_TN = np.stack([np.isin(client_N, view.survivors(number)) for number in rounds])
        return MembershipClaim({"drop": _mean(drop_TN, there_TN) - _mean(drop_TN, ~there_TN)})


def _mean(values_TN: FloatArray, taken_TN: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> FloatArray:
    """Over the rounds that are taken; 0 if none is."""
    return np.asarray((values_TN * taken_TN).sum(0) / np.maximum(taken_TN.sum(0), 1))
