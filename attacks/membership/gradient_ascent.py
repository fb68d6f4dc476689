"""Gradient ascent on the candidates, which members' clients undo (Nasr, Shokri & Houmansadr 2019, "Comprehensive Privacy
Analysis of Deep Learning", section IV-C, the active global attacker).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from attacks.membership import FloatArray
from attacks.membership._asked import AskedMembership
from attacks.membership._updates import losses
from privfl.running.knowledge import Knowledge
from privfl.running.orders import Answer, Order
from privfl.running.views import MaliciousServerView
from privfl.vectors import trained

_STEP: Final = 0.01
"""The length of a step of the ascent, as a share of the model's norm."""

_STEPS: Final = 200
_AT_ONCE: Final = 4096


class GradientAscent(AskedMembership):
    """Does local training undo a gradient ascent on this example?

    The server climbs the mean loss of all candidates, from the final model, until it has risen by ``rise``, and sends that
    model. Clients lower the loss of their own examples, and that of others only as far as the one follows from the other. No
    shadow models. The fall from the loss that was sent is no score, since it is mostly the rise before it.

    Variants:
        ``level``: minus the loss at the local model of the example's client, or at the mean of the local models if the server
            sees sums only; its mean over rounds.
        ``return``: the loss at the final model minus that one.
    """

    threat: ClassVar[str] = "A server raises the loss of an example before it sends the model, and looks who lowers it again."

    needs: ClassVar[str] = "the updates, or their sums, of rounds that it asks for"

    cost: ClassVar[str] = "up to 200 passes forward and backward over the candidates"

    rounds: PositiveInt = 3

    rise: PositiveFloat = 0.3
    """By how much the mean loss rises."""

    def ask(self, view: MaliciousServerView, knowledge: Knowledge) -> Sequence[Order]:
        """See :class:`attacks._malicious.MaliciousServerAttack`: the same model in each round."""
        return () if view.answers else [Order(self._risen(view.final_model(), knowledge))] * self.rounds

    def score(self, answer: Answer, view: MaliciousServerView, knowledge: Knowledge) -> dict[str, FloatArray]:
        """See :class:`attacks.membership._asked.AskedMembership`."""
        after_N = np.full(len(knowledge.candidates), np.nan)
        for clients, update_D in _moves(answer):
            rows_n = np.flatnonzero(np.isin(knowledge.candidates.client_N, clients))
            after_N[rows_n] = losses(knowledge, answer.order.model_D + update_D, rows_n)
        return {"level": -after_N, "return": losses(knowledge, view.final_model()) - after_N}

    def _risen(self, model_D: Tensor, knowledge: Knowledge) -> Tensor:
        """The model at which the candidates' mean loss has risen by ``rise``, or as far as it rises in so many steps."""
        start, length = losses(knowledge, model_D).mean(), _STEP * float(model_D.norm())
        for _ in range(_STEPS):
            gradient_D = _gradient(model_D, knowledge)
            norm = float(gradient_D.norm())
            if not np.isfinite(norm) or norm == 0 or losses(knowledge, model_D).mean() >= start + self.rise:
                break
            model_D = model_D + length / norm * gradient_D
        return model_D


def _moves(answer: Answer) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """The clients that moved together, and how far: each alone, or all that are in the sum by their mean."""
    if answer.shows_updates:
        updates_KD, _ = answer.updates()
        yield from (((client,), updates_KD[place]) for place, client in enumerate(answer.survivors))
    else:
        sum_D, weight = answer.sums()
        yield answer.survivors or answer.participants, (sum_D / weight).float()


def _gradient(model_D: Tensor, knowledge: Knowledge) -> Tensor:
    """The gradient of the candidates' mean loss, of shape (D,)."""
    network, candidates = knowledge.network, knowledge.candidates
    device = candidates.x.device
    module, total_D = network.at(model_D.to(device)), torch.zeros(network.layout.size)
    named = trained(module)
    for start in range(0, len(candidates), _AT_ONCE):
        rows_n = torch.arange(start, min(start + _AT_ONCE, len(candidates)), device=device)
        y_n = torch.from_numpy(candidates.y_N[start : start + _AT_ONCE]).to(device)
        loss = network.task.loss(module(candidates.x[rows_n]), y_n).sum()
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
        total_D += network.layout.flatten(dict(zip(named, found, strict=True))).cpu()
    return total_D / len(candidates)
