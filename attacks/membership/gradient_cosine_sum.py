"""The cosine between the sum of a cohort's updates and an example's gradient: what secure aggregation leaves of
``membership/gradient_cosine``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks import Attack
from attacks.membership._gradients import Gradients
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.running.knowledge import Knowledge
from privfl.running.views import ServerView, View


class GradientCosineSum(Attack):
    """Does the sum of a round's updates go against the gradient of this example?

    For each round in which the update of the example's client is in the sum: the cosine between minus the weighted sum and
    the gradient of the example's loss at the model that the round began with. Secure aggregation hides whose update it was; who
    took part is known to the server. No shadow models.

    Variants:
        ``cosine``: its mean over those rounds; 0 for the examples of a client that never took part.
    """

    adversary: ClassVar[Adversary] = "server"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A server that sees sums of updates and has an example wants to know whether it was trained on."

    needs: ClassVar[str] = "the sum of each round's updates"

    cost: ClassVar[str] = "a pass forward and backward over the candidates in each round"

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`."""
        assert isinstance(view, ServerView)
        candidates = knowledge.candidates
        total_N, rounds_N = np.zeros(len(candidates)), np.zeros(len(candidates))
        for number in view.rounds():
            rows = np.flatnonzero(np.isin(candidates.client_N, view.survivors(number)))
            if not len(rows):
                continue
            gradients = Gradients(knowledge.network, candidates, view.model_before(number))
            sum_D, _ = view.sums(number)
            total_N[rows] += gradients.cosines(sum_D.float(), rows)
            rounds_N[rows] += 1
        return MembershipClaim({"cosine": total_N / np.maximum(rounds_N, 1)})
