"""Buffered asynchronous rounds: the server steps whenever enough clients are done (FedBuff, Nguyen et al. 2022)."""

from __future__ import annotations

from pydantic import PositiveInt

from privfl.federation.paces._in_flight import InFlight


class Buffered(InFlight):
    """Rounds of the first ``size`` clients that are done, whichever models they trained from.

    A client whose model is s rounds old multiplies its clipped message by w(s) = (1 + s)^−``exponent`` (the paper's section
    5 has 1/√(1 + s)). s is public, so the client applies it inside the mask, and the ordinary secure aggregation sums the
    group.

    **Guarantees.** w(s) ≤ w(0) = 1, so that one client moves a group's sum by at most C: its clipping norm times the
    largest weight. Arrivals are not random, so no price counts on sampling. Under ``client_dpftrl`` a client rests for
    ``cohort.separation`` rounds after each group, which bounds how often it takes part. Under the other plans each client
    is charged for each of its groups. A client that is in flight when the run ends sent nothing and is not charged.

    If all durations are equal and ``size`` is the cohort's, these are synchronous rounds.
    """

    size: PositiveInt

    @property
    def group(self) -> int:
        """See :class:`InFlight`."""
        return self.size

    def weight(self, staleness: int) -> float:
        """See the contract."""
        return float((1 + staleness) ** -self.exponent)

    def way_out(self, least: int) -> str:
        """Larger groups."""
        return f"set pace.size to at least {least}, or aggregator.kind = 'mean'"

    def words(self) -> str:
        """See the contract."""
        return f"so many train at a time, and the first {self.size} that are done are summed, whichever model they trained from"
