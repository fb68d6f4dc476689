"""SCAFFOLD: control variates take the drift of each client out of its steps (Karimireddy et al. 2020, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, zeros_like

from privfl.federation.algorithms import Algorithm, State, Terms, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.vectors import Layout

_CONTROL = "control"


class Scaffold(Algorithm):
    """y ← y − η (g − c_k + c); c_k⁺ = c_k − c + (x − y)/(Kη), option II; c ← c + |S|/N · mean(c_k⁺ − c_k).

    A client uploads y − x and s (c_k⁺ − c_k), with the public s = η times the steps of the largest client: both are then of one
    size, and one clip covers them. With momentum ‖a‖₁ of FedNova stands in the place of K. All clients count alike in the
    means. The control variates c and c_k begin at zero.

    **Privacy.** c_k⁺ is a function of the client's update, noised under an example-level plan, and of released values.
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
        """The update, and the control variate's change."""
        return {UPDATE: layout, _CONTROL: layout}

    def work(self, told: State, client: State) -> LocalWork:
        """The drift c − c_k."""
        return LocalWork(drift_D=told[_CONTROL] - client[_CONTROL])

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:
        """See the class."""
        # A client without examples takes no step, and keeps what it has.
        taken = trained.gradient_weight > 0
        change_D = trained.mean_gradient() - told[_CONTROL] if taken else zeros_like(trained.delta_D)
        payload = {UPDATE: trained.delta_D, _CONTROL: change_D * _scale(trained.terms)}
        return payload, {_CONTROL: client[_CONTROL] + change_D}

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:
        """The mean update; c moves by the mean change, as many clients as took part."""
        return mean[UPDATE], {_CONTROL: server[_CONTROL] + mean[_CONTROL] * (share / _scale(terms))}


def _scale(terms: Terms) -> float:
    return terms.lr * terms.steps
