"""FedAvg: plain local training and the mean of the updates (McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar

from privfl.federation.algorithms import Algorithm, State
from privfl.learning.training import LocalWork


class FedAvg(Algorithm):
    """Federated averaging: x ← x + Σ p_k (y_k − x) through the server optimizer; p_k is a client's share of all examples."""

    from_older: ClassVar[bool] = True

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()
