"""Canary clients: updates of the auditor's choice in the place of some clients' own (Andrew et al. 2023, section 3)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.config import ExperimentConfig
from privfl.data.federated import FederatedData, IntArray
from privfl.federation.canaries._directed import DirectedCanaries, Shape
from privfl.tables import contradiction


class Client(DirectedCanaries):
    """Clients whose update is a vector in a direction of its own if their coin says so, and zero otherwise.

    They take part as any client does, and the plan clips what they hand in. A zero is what an absent client adds. The coin of
    a client is kept as the membership of one of its examples. ``scale``: the length before the clip, in clipping
    norms; without a promise, in lengths of the client's own update.
    """

    whole_clients: ClassVar[bool] = True

    direction: Shape = "random"

    def check(self, config: ExperimentConfig) -> None:
        """See :class:`privfl.config.CanariesConfig`: clients are what the plan protects, or nothing is.

        Raises:
            PydanticCustomError: examples are.
        """
        if config.privacy.promises and not config.privacy.clips_messages:
            raise contradiction(
                "canaries.kind",
                self.kind,
                f"is a whole client, and privacy.kind = {config.privacy.kind!r} protects single examples; "
                "set canaries.kind = 'gradient'",
            )

    def places(self, data: FederatedData, generator: np.random.Generator) -> IntArray:
        """One example of each client that is taken, of shape (M,), ascending.

        Raises:
            ConfigError: there are too few clients.
        """
        free = self.free(data)
        _, first_K = np.unique(data.owner_N[free], return_index=True)
        among = f"of {len(data.clients)} clients, the number of those that have two examples"
        return self._drawn(free[np.sort(first_K)], among, "raise data.clients", generator)
