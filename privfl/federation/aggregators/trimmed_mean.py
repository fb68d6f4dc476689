"""The coordinate-wise trimmed mean (Yin et al. 2018, "Byzantine-robust distributed learning", definition 2)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.aggregators._rows import ByzantineShare, RobustRule, byzantine


class TrimmedMean(RobustRule):
    """The mean of each coordinate without its f smallest and f largest values. Weights are not used.

    It withstands f clients, with f = ⌊``byzantine_share`` · n⌋ of the n clients of a round.
    """

    byzantine_share: ByzantineShare = 0.2

    def combine(self, updates_KD: Tensor, weights_K: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`RobustRule`."""
        clients = len(updates_KD)
        cut = byzantine(self.byzantine_share, clients, (clients - 1) // 2)
        return updates_KD.sort(0).values[cut : clients - cut].mean(0)
