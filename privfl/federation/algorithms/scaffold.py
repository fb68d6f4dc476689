"""SCAFFOLD: control variates correct the drift of each client's steps (Karimireddy et al. 2020, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, zeros_like

from privfl.federation.algorithms import Algorithm, State, Terms, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.vectors import Layout

_CONTROL = "control"


class Scaffold(Algorithm):
    """Drift correction: y ← y − η (g − c_k + c); c_k⁺ = c_k − c + (x − y)/(Kη), option II; c ← c + |S|/N · mean(c_k⁺ − c_k).

    A client uploads y − x and s (c_k⁺ − c_k). The scale s = η times the steps of the largest client is public. Both parts then
    have a similar size, and one clipping norm covers them. With momentum, ‖a‖₁ of FedNova replaces K. All clients have the same
    weight in the means. The control variates c and c_k begin at zero.

    **Privacy.** c_k⁺ is a function of released values and of the client's update, which has noise under an example-level plan.
    """

    remembers: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    of_gradients: ClassVar[bool] = True
    sums: ClassVar[bool] = True
    told: ClassVar[tuple[str, ...]] = (_CONTROL,)

    def init(self, global_D: Tensor) -> State:
        """``control``: c."""
        return {_CONTROL: zeros_like(global_D)}

    def client_init(self, global_D: Tensor) -> State:
        """``control``: c_k."""
        return {_CONTROL: zeros_like(global_D)}

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """The update and the change of the control variate."""
        return {UPDATE: layout, _CONTROL: layout}

    def work(self, told: State, client: State) -> LocalWork:
        """Training with the drift c − c_k."""
        return LocalWork(drift_D=told[_CONTROL] - client[_CONTROL])

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:
        """The update and the scaled change of the control variate; the client keeps c_k⁺."""
        # A client without examples takes no step and keeps its control variate.
        taken = trained.gradient_weight > 0
        change_D = trained.mean_gradient() - told[_CONTROL] if taken else zeros_like(trained.delta_D)
        payload = {UPDATE: trained.delta_D, _CONTROL: change_D * _scale(trained.terms)}
        return payload, {_CONTROL: client[_CONTROL] + change_D}

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:
        """The mean update. c moves by the mean change times the share of clients that took part."""
        return mean[UPDATE], {_CONTROL: server[_CONTROL] + mean[_CONTROL] * (share / _scale(terms))}


def _scale(terms: Terms) -> float:
    return terms.lr * terms.steps
