"""Ditto: beside the global model each client trains a model of its own, pulled to the global one (Li et al. 2021)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privfl.federation.algorithms import Algorithm, State
from privfl.learning.training import LocalWork


class Ditto(Algorithm):
    """v_k ← v_k − η (∇f_k(v_k) + λ (v_k − x)), algorithm 1; the global model is FedAvg's. ``strength`` is λ.

    v_k starts as the global model of the first round in which the client takes part. With λ = 0 it is local training alone.

    **Privacy.** v_k never leaves the client, and no upload is made of it. It is trained without noise under every plan, and
    no promise covers it: whoever publishes it publishes a model that was trained plainly on the client's data.
    """

    personal: ClassVar[bool] = True

    strength: Annotated[float, Field(ge=0, le=1e30)] = 1.0

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def personal_work(self, personal_D: Tensor, global_D: Tensor) -> LocalWork:
        """From v_k, with the pull to x."""
        return LocalWork(start_D=personal_D, centre_D=global_D, mu=self.strength)
