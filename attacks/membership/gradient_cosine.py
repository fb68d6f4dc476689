"""The cosine between a client's update and an example's gradient (Li, Li & Ribeiro 2023, "Effective passive membership
inference attacks in federated learning against overparameterized models").
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks import Attack
from attacks.membership._gradients import Gradients
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ConfigError
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.views import ServerView, View


class GradientCosine(Attack):
    """Does the update that a client sent go against the gradient of this example?

    For each round in which the update of the example's client arrived: the cosine between minus that update and the gradient
    of the example's loss at the model that the round began with. No shadow models.

    Variants:
        ``cosine``: its mean over those rounds; 0 for the examples of a client that never took part, about which the attack
        knows nothing.
    """

    adversary: ClassVar[Adversary] = "server"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A server that sees each client's update and has an example wants to know who trained on it."

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the server sees single updates."""
        if prospect.hides_updates:
            raise ConfigError(
                f"aggregator: {self.kind!r} needs the update of each client, and this aggregator shows the server sums only; "
                "set aggregator.kind = 'mean', or attack the sums with 'membership/gradient_cosine_sum'"
            )
        super().require_possible(prospect)

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`."""
        assert isinstance(view, ServerView)
        candidates = knowledge.candidates
        total_N, rounds_N = np.zeros(len(candidates)), np.zeros(len(candidates))
        for number in view.rounds():
            clients = view.survivors(number)
            if not clients:
                continue
            gradients = Gradients(knowledge.network, candidates, view.model_before(number))
            updates_KD, _ = view.updates(number)
            for client, update_D in zip(clients, updates_KD, strict=True):
                rows = np.flatnonzero(candidates.client_N == client)
                total_N[rows] += gradients.cosines(update_D, rows)
                rounds_N[rows] += 1
        return MembershipClaim({"cosine": total_N / np.maximum(rounds_N, 1)})
