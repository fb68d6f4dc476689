"""Units that fire on one example alone (Pasquini et al. 2022, "Eluding Secure Aggregation in Federated Learning via Model
Inconsistency", section 5, the canary gradient).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from attacks._layers import ReluLayer, relu_layers
from attacks._malicious import MaliciousServerAttack
from attacks.membership import FloatArray
from attacks.membership._asked import nothing_came
from attacks.membership._updates import mean_scores
from privfl.auditing.questions.membership import MembershipClaim
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.orders import Answer, Order
from privfl.running.views import MaliciousServerView, View

_RIDGE: Final = 1e-2
"""The ridge on the covariance of a layer's inputs, as a share of their mean variance."""


@dataclass(frozen=True, eq=False)
class _Watch:
    """The candidates that one model watches, a unit each.

    Args:
        clients: who is sent the model.
        rows_n: the candidates.
    """

    clients: tuple[int, ...]
    rows_n: NDArray[np.int64]


class CanaryGradient(MaliciousServerAttack):
    """Does a unit that fires on this example alone have a gradient?

    Each unit of the first linear layer with a ReLU is written so that it fires on one candidate and on no other example that
    the server has. Its weights move in local training only if that candidate is there, and then along the candidate.
    Pasquini trains such a unit with a binary cross-entropy; this one is the linear discriminant between the candidate and
    all others, with a threshold halfway between the candidate and the next that comes.

    A sum of updates shows it as well as a single one: all clients are sent one model, so that no binding of models into masks
    is in the way. Noise on each example's gradient is. If the server sees single updates, each client is sent units for
    candidates of its own.

    Variants:
        ``gradient``: the cosine, without its sign, between the change of the unit's weights and bias and the candidate; the
            median for candidates that no round had a unit for.
    """

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A server that sees sums only has an example, and sends a model that answers for it alone."

    needs: ClassVar[str] = "the updates, or their sums, of rounds that it asks for; a linear layer with a ReLU"

    cost: ClassVar[str] = "a pass forward over the candidates, and a matrix inverse of the layer's inputs"

    rounds: PositiveInt = 8

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: there is a layer whose units can be written."""
        super().require_possible(prospect)
        relu_layers(prospect.network, self.kind)

    def ask(self, view: MaliciousServerView, knowledge: Knowledge) -> Sequence[Order]:
        """See :class:`attacks._malicious.MaliciousServerAttack`: units for as many candidates as there is room for."""
        if view.answers:
            return ()
        layer, model_D = relu_layers(knowledge.network, self.kind)[0], view.final_model()
        canaries = _Canaries.of(layer, knowledge, model_D)
        orders = []
        for watches in _plan(view, knowledge, layer.units):
            models = [(one.clients, canaries.written(model_D, one.rows_n)) for one in watches]
            everybody_D = models[0][1] if models else model_D
            orders.append(Order(everybody_D, {client: sent_D for clients, sent_D in models[1:] for client in clients}))
        return orders

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: nothing came back.
        """
        assert isinstance(view, MaliciousServerView)
        layer = relu_layers(knowledge.network, self.kind)[0]
        input_NF = layer.inputs_of(knowledge.network, view.final_model(), knowledge.candidates.x).cpu()
        scores_N = np.full(len(knowledge.candidates), np.nan)
        for answer, watches in zip(view.answers, _plan(view, knowledge, layer.units), strict=False):
            for watch in watches:
                update_D = _update(answer, watch.clients)
                if update_D is not None:
                    scores_N[watch.rows_n] = _alignment(layer, update_D, input_NF[torch.from_numpy(watch.rows_n)])
        found = mean_scores([{"gradient": scores_N}])
        if not found:
            raise nothing_came(self.kind, view)
        return MembershipClaim(found)


def _plan(view: MaliciousServerView, knowledge: Knowledge, units: int) -> list[list[_Watch]]:
    """The candidates that are watched in each round, until all of them were or there are no more rounds."""
    client_N, rounds = knowledge.candidates.client_N, list[list[_Watch]]()
    waiting_N = np.ones(len(client_N), bool)
    for cohort in view.cohorts:
        if not waiting_N.any():
            break
        watches = []
        for clients in [cohort] if view.hides_updates else [(client,) for client in cohort]:
            rows_n = np.flatnonzero(waiting_N & np.isin(client_N, clients))[:units]
            waiting_N[rows_n] = False
            watches.append(_Watch(clients, rows_n))
        rounds.append(watches)
    return rounds


def _update(answer: Answer, clients: tuple[int, ...]) -> Tensor | None:
    """The update, or sum of updates, that came back from those clients, of shape (D,); None if nothing did."""
    if not answer.shows_updates:
        return answer.sums()[0] if answer.seen else None
    updates_KD, _ = answer.updates()
    places = [place for place, client in enumerate(answer.survivors) if client in clients]
    return updates_KD[places].sum(0) if places else None


def _alignment(layer: ReluLayer, update_D: Tensor, input_nF: Tensor) -> FloatArray:
    """The cosines, without sign, between the changes of the first n units and the inputs that they watch, of shape (n,)."""
    weight_HF, bias_H = layer.weights(update_D.double())
    moved_nF = torch.cat([weight_HF, bias_H[:, None]], 1)[: len(input_nF)]
    watched_nF = torch.cat([input_nF, torch.ones(len(input_nF), 1)], 1).double()
    norms_n = moved_nF.norm(dim=1) * watched_nF.norm(dim=1)
    cosines_n = torch.where(norms_n > 0, (moved_nF * watched_nF).sum(1).abs() / norms_n, 0.0)
    return np.asarray(cosines_n.numpy(), np.float64)


@dataclass(frozen=True, eq=False)
class _Canaries:
    """Units that fire on one candidate each.

    Args:
        layer: whose units they are.
        input_NF: the layer's inputs for the N candidates.
        others_MF: its inputs for the candidates and the population.
        inverse_FF: the inverse of their covariance.
    """

    layer: ReluLayer
    input_NF: Tensor
    others_MF: Tensor
    inverse_FF: Tensor

    @classmethod
    def of(cls, layer: ReluLayer, knowledge: Knowledge, model_D: Tensor) -> _Canaries:
        """Those that a server can write that has these examples."""
        input_NF, others_PF = (
            layer.inputs_of(knowledge.network, model_D, examples.x).double()
            for examples in (knowledge.candidates, knowledge.population)
        )
        others_MF = torch.cat([input_NF, others_PF])
        covariance_FF = torch.cov(others_MF.T).reshape(layer.inputs, layer.inputs)
        ridge = _RIDGE * covariance_FF.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        eye_FF = torch.eye(layer.inputs, dtype=torch.float64, device=others_MF.device)
        return cls(layer, input_NF, others_MF, torch.linalg.inv(covariance_FF + ridge * eye_FF))

    def written(self, model_D: Tensor, rows_n: NDArray[np.int64]) -> Tensor:
        """A copy of a model whose first units fire on these candidates, by 1 each, and whose other units never do."""
        index_n = torch.from_numpy(rows_n).to(self.input_NF.device)
        weight_nF = (self.input_NF[index_n] - self.others_MF.mean(0)) @ self.inverse_FF
        fired_nM = weight_nF @ self.others_MF.T
        each = torch.arange(len(rows_n), device=index_n.device)
        own_n = fired_nM[each, index_n]
        fired_nM[each, index_n] = -torch.inf
        next_n = fired_nM.max(1).values if len(rows_n) else own_n
        # An example that another one exceeds has no threshold of its own; its unit fires on both.
        gap_n = torch.where(own_n > next_n, (own_n - next_n) / 2, own_n.abs().clamp(min=1.0) * 1e-3)
        weight_HF, bias_H = (torch.zeros_like(part) for part in self.layer.weights(model_D))
        bias_H -= 1.0
        weight_HF[: len(rows_n)] = (weight_nF / gap_n[:, None]).float().cpu()
        bias_H[: len(rows_n)] = (1.0 - own_n / gap_n).float().cpu()
        return self.layer.written(model_D, weight_HF, bias_H)
