"""SCAFFOLD: control variates correct the drift of each client's steps (Karimireddy et al. 2020, algorithm 1)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt
from torch import Tensor, zeros_like

from privfl.federation.algorithms import Algorithm, State, Terms, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.vectors import Layout

_CONTROL, _USED, _ROUNDS = "control", "used", "rounds"


class Scaffold(Algorithm):
    """Drift correction: y ← y − η (g − c_k + c); c_k⁺ = c_k − c + (x − y)/(Kη), option II; c ← c + |S|/N · mean(c_k⁺ − c_k).

    A client uploads y − x and s (c_k⁺ − c_k). The scale s = η times the steps of the largest client is public. Both parts then
    have a similar size, and one clipping norm covers them. With momentum, ‖a‖₁ of FedNova replaces K. All clients have the same
    weight in the means. The control variates c and c_k begin at zero.

    ``warmup`` is a number of rounds in which control variates are learned and not used, the warm start of DP-SCAFFOLD (Noble,
    Bellet & Dieuleveut 2022), here with a global model that moves. ``shrinkage`` multiplies the correction c − c_k after them.
    Both keep a plan's noise out of the steps, since c_k has the noise of a round's steps in it. With as many rounds of warm-up
    as the run has, the model is FedAvg's with equal weights.

    **Privacy.** c_k⁺ is a function of released values and of the client's update, which has noise under an example-level plan.
    """

    remembers: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    of_gradients: ClassVar[bool] = True
    sums: ClassVar[bool] = True
    told: ClassVar[tuple[str, ...]] = (_CONTROL, _USED)

    warmup: NonNegativeInt = 0
    shrinkage: Annotated[float, Field(ge=0, le=1)] = 1.0

    def init(self, global_D: Tensor) -> State:
        """``control``: c. ``used``: the factor of the correction in this round. ``rounds``: how many rounds have ended."""
        return {_CONTROL: zeros_like(global_D), _USED: self._used(0, global_D), _ROUNDS: global_D.new_zeros(())}

    def client_init(self, global_D: Tensor) -> State:
        """``control``: c_k."""
        return {_CONTROL: zeros_like(global_D)}

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """The update and the change of the control variate."""
        return {UPDATE: layout, _CONTROL: layout}

    def work(self, told: State, client: State) -> LocalWork:
        """Training with the drift c − c_k times the factor of the round."""
        return LocalWork(drift_D=told[_USED] * (told[_CONTROL] - client[_CONTROL]))

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:
        """The update and the scaled change of the control variate; the client keeps c_k⁺."""
        # A client without examples takes no step and keeps its control variate.
        taken = trained.gradient_weight > 0
        # c_k⁺ is the mean gradient without its drift s (c − c_k), so that c_k⁺ − c_k = mean − s c − (1 − s) c_k.
        drift_D = told[_USED] * told[_CONTROL] + (1 - told[_USED]) * client[_CONTROL]
        change_D = trained.mean_gradient() - drift_D if taken else zeros_like(trained.delta_D)
        payload = {UPDATE: trained.delta_D, _CONTROL: change_D * _scale(trained.terms)}
        return payload, {_CONTROL: client[_CONTROL] + change_D}

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:
        """The mean update. c moves by the mean change times the share of clients that took part."""
        control_D, ended = server[_CONTROL] + mean[_CONTROL] * (share / _scale(terms)), server[_ROUNDS] + 1
        return mean[UPDATE], {_CONTROL: control_D, _USED: self._used(int(ended), control_D), _ROUNDS: ended}

    def _used(self, rounds: int, like_D: Tensor) -> Tensor:
        return like_D.new_tensor(0.0 if rounds < self.warmup else self.shrinkage)


def _scale(terms: Terms) -> float:
    return terms.lr * terms.steps
