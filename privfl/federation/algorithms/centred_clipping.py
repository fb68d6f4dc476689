"""Centred clipping: updates are clipped around the last released step, not around zero (Karimireddy, He & Jaggi 2021)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, zeros_like

from privfl.federation.algorithms import Algorithm, State, Terms, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.tables import Size

_CENTRE = "centre"


class CentredClipping(Algorithm):
    """A client uploads min(1, τ / ‖Δ_k − v‖) (Δ_k − v), and the step is v⁺ = v + the mean of these: algorithm 2, one iteration.

    ``tau`` is τ. v is the step of the round before, and 0 in the first round. A client moves the step by at most τ times its
    share of the mean, wherever the others are. With a large τ it is FedAvg.

    The clients clip, because v is public. So it goes through a secure sum, in which nobody can check that a client clipped. A
    client-level plan clips the same difference again to its own norm.

    **Privacy.** v is a released value.
    """

    sums: ClassVar[bool] = True
    told: ClassVar[tuple[str, ...]] = (_CENTRE,)

    tau: Size

    def init(self, global_D: Tensor) -> State:
        """``centre``: v."""
        return {_CENTRE: zeros_like(global_D)}

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:
        """The clipped difference to v."""
        difference_D = trained.delta_D - told[_CENTRE].to(trained.delta_D)
        # A difference of 0 keeps its length: its scale is 1.
        scale = (self.tau / difference_D.norm().clamp_min(1e-30)).clamp_max(1.0)
        return {UPDATE: scale * difference_D}, client

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """The step: v plus the mean; it is the next v."""
        step_D = server[_CENTRE].to(mean[UPDATE]) + mean[UPDATE]
        return step_D, {_CENTRE: step_D}
