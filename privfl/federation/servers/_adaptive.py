"""The base class of FedAdagrad, FedAdam and FedYogi (Reddi 2021, algorithm 2)."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import PositiveFloat
from torch import Tensor, full_like, zeros_like

from privfl.federation.servers import Decay, ServerOptimizer, State


class AdaptiveServer(ServerOptimizer):
    """An adaptive server: m <- β1 m + (1 − β1) Δ;  v <- second(v, Δ²);  x <- x + lr m / (√v + τ).

    v starts at τ², the value that Reddi 2021 recommends (v_{-1} ≥ τ²). There is no bias correction, as in the paper.
    """

    lr: PositiveFloat
    beta1: Decay = 0.9
    tau: PositiveFloat = 1e-3

    def init(self, global_D: Tensor) -> State:
        """``first_D``, zero, and ``second_D``, τ² everywhere."""
        return {"first_D": zeros_like(global_D), "second_D": full_like(global_D, self.tau**2)}

    def step(self, global_D: Tensor, delta_D: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the formula above."""
        first_D = self.beta1 * state["first_D"] + (1 - self.beta1) * delta_D
        second_D = self.second(state["second_D"], delta_D.square())
        return global_D + self.lr * first_D / (second_D.sqrt() + self.tau), {"first_D": first_D, "second_D": second_D}

    @abstractmethod
    def second(self, second_D: Tensor, square_D: Tensor) -> Tensor:
        """The second-moment estimate v after the update by Δ²."""
