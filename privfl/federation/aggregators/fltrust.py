"""FLTrust: the server weighs updates by how far they point along an update of its own (Cao et al. 2021)."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor

from privfl.errors import ProtocolError
from privfl.federation.aggregators import RoundContext
from privfl.federation.aggregators._rows import RowRule


class FLTrust(RowRule):
    """The mean of updates that are scaled to the length of the server's own, weighted by max(0, cosine with it).

    The server trains in each round on ``root_rows`` examples, which are drawn from the test split and left out of it. If no
    update has a positive cosine, the result is zero, and the model stays as it is. The clients' weights are not used.
    """

    root_rows: PositiveInt = 100

    @property
    def server_rows(self) -> int:
        """See :class:`privfl.federation.aggregators.Aggregator`."""
        return self.root_rows

    def combined(self, updates_KD: Tensor, weights_K: Tensor, context: RoundContext) -> Tensor:  # noqa: ARG002
        """See :class:`RowRule`.

        Raises:
            ProtocolError: the round has no update of the server.
        """
        if context.root is None:
            raise ProtocolError(f"aggregator {self.kind!r} has no update of the server, so nothing was combined")
        return trusted(updates_KD, context.root().to(updates_KD))


def trusted(updates_KD: Tensor, root_D: Tensor) -> Tensor:
    """Σ relu(c_i) · (|g| / |Δ_i|) Δ_i / Σ relu(c_i), with the cosine c_i of Δ_i and the server's update g; shape (D,).

    An update of length 0 has the cosine 0.
    """
    length, lengths_K = root_D.norm(), updates_KD.norm(dim=1)
    directions_KD = updates_KD / lengths_K.where(lengths_K > 0, lengths_K.new_ones(()))[:, None]
    trust_K = (directions_KD @ root_D).clamp(min=0)
    total = trust_K.sum()
    return length * (trust_K @ directions_KD) / total if bool(total > 0) else root_D * 0
