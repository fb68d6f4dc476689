"""Different models for different clients, so that a sum of updates is one client's update (Pasquini et al. 2022, "Eluding
Secure Aggregation in Federated Learning via Model Inconsistency", section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from attacks._layers import relu_layers
from attacks.membership import FloatArray
from attacks.membership._asked import AskedMembership
from attacks.membership._gradients import Gradients
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.orders import Answer, Order
from privfl.running.views import MaliciousServerView
from privfl.vectors import trained

_SOME: Final = 256
"""So many examples of the population tell which parameters of a dead model move."""


class ModelInconsistency(AskedMembership):
    """Does the update of one client, alone in the sum as all others' models are dead, go against the gradient of this example?

    In each round one client of the cohort is sent the final model, and all others a model whose last ReLU never fires. Their
    gradients are zero but for biases that come after that ReLU, which are left out, so that the sum is the one client's update.
    The secure sum of this project binds the model into the masks, and the sum is noise.

    Variants:
        ``cosine``: that between minus the sum and the gradient of the example's loss, for the examples of the client; the
            median for those of clients that were not singled out.
    """

    threat: ClassVar[str] = "A server that sees sums only sends clients different models, to have one client's update alone."

    needs: ClassVar[str] = "the sums of rounds that it asks for; a linear layer with a ReLU"

    cost: ClassVar[str] = "a pass forward and backward over the candidates"

    rounds: PositiveInt = 10

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: there is a ReLU to be silenced."""
        super().require_possible(prospect)
        relu_layers(prospect.network, self.kind)

    def ask(self, view: MaliciousServerView, knowledge: Knowledge) -> Sequence[Order]:
        """See :class:`attacks._malicious.MaliciousServerAttack`: the client with the most candidates of those still to come."""
        if view.answers:
            return ()
        model_D, last = view.final_model(), relu_layers(knowledge.network, self.kind)[-1]
        owners, counts = np.unique(knowledge.candidates.client_N, return_counts=True)
        waiting, orders = dict(zip(owners.tolist(), counts.tolist(), strict=True)), list[Order]()
        for cohort in view.cohorts:
            if not waiting:
                break
            there = [client for client in cohort if client in waiting]
            victim = max(there, key=waiting.__getitem__, default=None)
            # A cohort without any of them is asked as the run would ask it.
            orders.append(Order(model_D) if victim is None else Order(last.dead(model_D), {victim: model_D}))
            waiting.pop(victim, None)
        return orders

    def score(self, answer: Answer, view: MaliciousServerView, knowledge: Knowledge) -> dict[str, FloatArray]:
        """See :class:`attacks.membership._asked.AskedMembership`."""
        scores_N = np.full(len(knowledge.candidates), np.nan)
        if not answer.order.instead:
            return {"cosine": scores_N}
        (victim,), model_D = answer.order.instead, view.final_model()
        rows_n = np.flatnonzero(knowledge.candidates.client_N == victim)
        own_D = answer.sums()[0].float() * ~_moving(answer.order.model_D, knowledge)
        scores_N[rows_n] = Gradients(knowledge.network, knowledge.candidates, model_D).cosines(own_D, rows_n)
        return {"cosine": scores_N}


def _moving(dead_D: Tensor, knowledge: Knowledge) -> Tensor:
    """The parameters of a dead model that have a gradient all the same, of shape (D,)."""
    network, some = knowledge.network, knowledge.population
    module = network.at(dead_D.to(some.x.device))
    first = torch.arange(min(len(some), _SOME), device=some.x.device)
    labels_n = torch.from_numpy(some.y_N[: len(first)]).to(some.x.device)
    named = trained(module)
    total = network.task.loss(module(some.x[first]), labels_n).sum()
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return network.layout.flatten(dict(zip(named, found, strict=True))).cpu() != 0
