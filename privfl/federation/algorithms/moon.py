"""MOON: a contrastive term keeps a client's features near those of the global model (Li, He & Song 2021)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field
from torch import Tensor, nn

from privfl.federation.algorithms import Algorithm, State, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import Contrast, LocalWork
from privfl.learning.training._contrast import head_of
from privfl.tables import Size

_PREVIOUS = "previous"


class Moon(Algorithm):
    """Contrastive training: each example's features go towards the global model's and away from the client's last model's.

    An example's loss is ℓ + μ ℓ_con with ℓ_con = −log(e^{cos(z, z₁)/τ} / (e^{cos(z, z₁)/τ} + e^{cos(z, z₂)/τ})), equation 3.
    z are its features in the model that is trained, z₁ in the global model and z₂ in the client's last local model: the inputs
    of the last linear layer. ``mu`` is μ and ``temperature`` τ. The server averages as FedAvg does. A client keeps its last
    local model. In its first round that is the global model, so that the term is constant.

    **Privacy.** The term is a part of each example's own loss, and its gradient is clipped and noised with it. The last local
    model is the client's own result, with its noise under an example-level plan, and never leaves the client.
    """

    remembers: ClassVar[bool] = True
    engine: ClassVar[str | None] = "opacus"

    mu: Annotated[float, Field(ge=0, le=1e30)] = 1.0
    temperature: Size = 0.5

    def client_init(self, global_D: Tensor) -> State:
        """``previous``: the global model."""
        return {_PREVIOUS: global_D.clone()}

    def resolved(self, model: nn.Module) -> Self:
        """The algorithm itself.

        Raises:
            ModelError: the model has no features.
        """
        head_of(model)
        return self

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Training with the contrastive term; plain training with μ = 0."""
        return LocalWork(contrast=Contrast(client[_PREVIOUS], self.mu, self.temperature) if self.mu else None)

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """The update; the client keeps the model that it ended with."""
        return {UPDATE: trained.delta_D}, {_PREVIOUS: trained.global_D + trained.delta_D}
