"""Ditto: each client also trains a model of its own that is pulled towards the global one (Li et al. 2021)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privfl.federation.algorithms import Algorithm, Begun, State
from privfl.federation.local_training import Training
from privfl.learning.training import LocalWork


class Ditto(Algorithm):
    """Personal models: v_k ← v_k − η (∇f_k(v_k) + λ (v_k − x)), algorithm 1; ``strength`` is λ.

    The global model is trained by FedAvg. v_k starts at the global model of the first round in which the client takes part.
    With λ = 0 it is local training alone.

    **Privacy.** v_k never leaves the client, and no upload is computed from it. It is trained without noise under every plan,
    and no promise covers it. Publishing it would publish a model that was trained on the client's data without any noise.
    """

    personal: ClassVar[bool] = True

    strength: Annotated[float, Field(ge=0, le=1e30)] = 1.0

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def personal_init(self, global_D: Tensor) -> State:
        """``model``: v_k."""
        return {"model": global_D}

    def personal_training(self, begun: Begun) -> Training[State]:
        """Training from v_k with a pull towards x."""
        moved = yield LocalWork(start_D=begun.personal["model"], centre_D=begun.global_D, mu=self.strength, whole=True)
        return {"model": moved.whole()}
