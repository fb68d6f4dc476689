"""FedDyn: a linear term in each client's objective moves its optimum to the global one (Acar et al. 2021)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, zeros_like

from privfl.federation.algorithms import Algorithm, State, Terms, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork

_OFFSET = "offset"


class FedDyn(Algorithm):
    """Clients minimise f(y) + α/2 ‖y − x‖² + α⟨h_k, y⟩; h_k⁺ = h_k + (y − x); h ← h + 1/N Σ_S (y_k − x); x ← mean_S y_k + h.

    This is algorithm 1 of Acar et al. with h_k = −∇L_k/α, and h replacing −h/α, as in the authors' code. All clients have the
    same weight. A client's first upload is FedProx's with μ = α.

    **Privacy.** h_k is the sum of the client's updates, each with noise under an example-level plan. h is a sum of released
    means and accumulates the noise of all rounds.
    """

    remembers: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    sums: ClassVar[bool] = True

    alpha: Annotated[float, Field(gt=0, le=1e30)] = 0.01

    def init(self, global_D: Tensor) -> State:
        """``offset``: h."""
        return {_OFFSET: zeros_like(global_D)}

    def client_init(self, global_D: Tensor) -> State:
        """``offset``: h_k."""
        return {_OFFSET: zeros_like(global_D)}

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Training with a pull towards the global model and the constant α h_k."""
        return LocalWork(drift_D=self.alpha * client[_OFFSET], mu=self.alpha)

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """The update, which is also added to h_k."""
        return {UPDATE: trained.delta_D}, {_OFFSET: client[_OFFSET] + trained.delta_D}

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """The mean update plus h."""
        offset_D = server[_OFFSET] + share * mean[UPDATE]
        return mean[UPDATE] + offset_D, {_OFFSET: offset_D}
