"""MR-MTL: each client trains a model of its own that is pulled towards the mean of all (Liu et al. 2022, algorithm A1)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privfl.federation.algorithms import Algorithm, Begun, State, Trained
from privfl.federation.local_training import Training
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork

_MODEL = "model"


class MrMtl(Algorithm):
    """Mean-regularised multi-task learning: w_k ← w_k − η (∇f_k(w_k) + λ (w_k − x)), and x is the mean of the w_k.

    ``strength`` is λ. A client starts at its own w_k, and uploads w_k − x. All clients have the same weight. With λ = 0 each
    client trains alone. A client's first upload is FedProx's with μ = λ.

    **Privacy.** w_k is the only model that is trained, so a personal model costs nothing beside the uploads. Under an
    example-level plan all of its steps have noise, and w_k is covered as the update is.
    """

    remembers: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    counted: ClassVar[bool] = True
    weighted: ClassVar[bool] = False

    strength: Annotated[float, Field(ge=0, le=1e30)] = 1.0

    def client_init(self, global_D: Tensor) -> State:
        """``model``: w_k."""
        return {_MODEL: global_D}

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Training from w_k with a pull towards x."""
        return LocalWork(start_D=client[_MODEL], mu=self.strength)

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """The difference of w_k to x; the client keeps w_k."""
        after_D = client[_MODEL] + trained.delta_D
        # From x, the update itself is the difference, to the last bit.
        away_D = trained.delta_D + (client[_MODEL] - trained.global_D)
        return {UPDATE: away_D}, {_MODEL: after_D}

    def personalised(self, begun: Begun) -> Training[Tensor | None]:
        """w_k."""
        return begun.kept[_MODEL] if begun.took_part else None
        yield
