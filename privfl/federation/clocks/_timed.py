"""The settings and the formula that all clocks with durations share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from privfl.federation.clocks import Clock, FloatArray
from privfl.seeding import Seed
from privfl.tables import Size

Spread = Annotated[float, Field(ge=0, le=10)]


class TimedClock(Clock):
    """A clock by which client k takes ``seconds`` · w_k · v_k · f seconds for a training.

    ``per`` says what takes ``seconds``: the whole training (w_k = 1), or one local step (w_k is the client's number of
    steps), so that large clients are late more often. v_k = exp(``speed_spread`` · Z_k) is the client's own pace, drawn
    once. f is drawn anew for each training by the item.
    """

    seconds: Size = 1.0
    per: Literal["training", "step"] = "training"
    speed_spread: Spread = 0.0

    @abstractmethod
    def factors(self, clients: int, generator: np.random.Generator) -> FloatArray:
        """The factor f for one training of each client, of shape (K,), all above 0.

        Args:
            clients: K, the number of clients.
            generator: the source of the draws, of this training alone.
        """

    def durations(self, training: int, steps_K: FloatArray, stream: Seed) -> FloatArray:
        """See the contract."""
        clients = len(steps_K)
        slow_K = np.exp(self.speed_spread * (stream / "speed").numpy().standard_normal(clients))
        work_K = steps_K if self.per == "step" else np.ones(clients)
        found_K: FloatArray = self.seconds * work_K * slow_K * self.factors(clients, (stream / "training" / training).numpy())
        return np.maximum(found_K, np.finfo(np.float64).tiny)

    def words(self) -> str:
        """See the contract."""
        spread = f", client paces spread by {self.speed_spread:g}" if self.speed_spread else ""
        return f"{self.kind.replace('_', '-')} durations, {self.seconds:g} s a {self.per}{spread}"
