"""FedProx: every local step is pulled towards the global model (Li et al. 2020, algorithm 2)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from privfl.federation.algorithms import Algorithm, State
from privfl.learning.training import LocalWork


class FedProx(Algorithm):
    """Each client minimises f(y) + μ/2 ‖y − x‖², equation 2; ``mu`` = 0 is FedAvg.

    Under an example-level plan the pull is added after the noise, since x is public and y is the client's own noised model.
    """

    mu: Annotated[float, Field(ge=0, le=1e30)]

    from_older: ClassVar[bool] = True

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Training with the pull."""
        return LocalWork(mu=self.mu)
