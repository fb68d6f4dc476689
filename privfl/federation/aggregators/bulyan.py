"""Bulyan (El Mhamdi et al. 2018, "The hidden vulnerability of distributed learning in Byzantium")."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.aggregators._rows import ByzantineShare, RobustRule, byzantine, repeated_krum, squared_distances


class Bulyan(RobustRule):
    """Repeated Krum selects n − 2f updates, and of these each coordinate is the mean of the n − 4f values nearest its median.

    It withstands f clients with n ≥ 4f + 3, f = ⌊``byzantine_share`` · n⌋; a larger f is lowered to that. Weights are not used.
    """

    byzantine_share: ByzantineShare = 0.2

    def combine(self, updates_KD: Tensor, weights_K: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`RobustRule`."""
        clients = len(updates_KD)
        faulty = byzantine(self.byzantine_share, clients, (clients - 3) // 4)
        chosen = sorted(repeated_krum(squared_distances(updates_KD), faulty, clients - 2 * faulty))
        values_KD = updates_KD[chosen].sort(0).values
        count = len(chosen)
        median_D = (values_KD[(count - 1) // 2] + values_KD[count // 2]) / 2
        nearest_KD = (values_KD - median_D).abs().argsort(dim=0, stable=True)[: count - 2 * faulty]
        return values_KD.gather(0, nearest_KD).mean(0)
