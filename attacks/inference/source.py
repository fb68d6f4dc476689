"""Which client trained on an example: the one whose local model has the smallest loss on it (Hu et al. 2021, "Source inference
attacks in federated learning", section 3).
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from attacks.membership._updates import OnUpdates, seen_rounds
from privfl.auditing.questions.source import SourceClaim
from privfl.errors import ViewError
from privfl.running.knowledge import Knowledge
from privfl.running.views import View

_BROKEN: Final = 1e30
"""The loss at a model that is not finite: larger than any other, and finite in a mean."""


class Source(OnUpdates):
    """Name the client whose local model has the smallest loss on the example, beside the other clients' of the same rounds.

    A client's measure in a round is the loss at its local model minus the mean over the clients of the round.

    Variants:
        ``averaged``: the client with the smallest mean over the rounds in which its update arrived.
        ``last round``: the same from the last round alone.
    """

    question: ClassVar[str] = "source"

    threat: ClassVar[str] = "A server that sees each client's update and has a member wants to know which client trained on it."

    needs: ClassVar[str] = "the updates of 2 or more clients in a round"

    cost: ClassVar[str] = "a pass forward over the candidates for each update"

    least_clients: ClassVar[int] = 2

    on_sums: ClassVar[str] = "take this attack away"

    def run(self, view: View, knowledge: Knowledge) -> SourceClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: no round had the updates of two clients.
        """
        totals: dict[int, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = {}
        last_N: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
        for seen in seen_rounds(view, knowledge):
            if len(seen.clients) < self.least_clients:
                continue
            losses_KN = seen.every.local_losses_KN
            # A model that broke is nobody's best.
            losses_KN = np.where(np.isfinite(losses_KN), losses_KN, _BROKEN)
            for client, own_N in zip(seen.clients, losses_KN - losses_KN.mean(0), strict=True):
                totals.setdefault(client, []).append(own_N)
            last_N = np.array(seen.clients, dtype=np.int64)[losses_KN.argmin(0)]
        if last_N is None:
            raise ViewError(f"{self.kind!r}: no round has the updates of 2 or more clients; run it with a larger cohort")
        clients_K = np.array(list(totals), dtype=np.int64)
        means_KN = np.stack([np.mean(found, axis=0) for found in totals.values()])
        return SourceClaim({"averaged": clients_K[means_KN.argmin(0)], "last round": last_N})
