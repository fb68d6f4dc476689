"""The mean of updates whose norms are bounded (Sun et al. 2019, "Can you really backdoor federated learning?", section 3)."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.aggregators._rows import RobustRule
from privfl.tables import Size


class NormBound(RobustRule):
    """Σ p_i min(1, C / ‖Δ_i‖) Δ_i / Σ p_i, with C = ``max_norm``: one client moves the result by p_i C / Σ p at most.

    The server scales the updates, so the bound holds against clients that do not follow the protocol. A client-level plan
    bounds the norm at the client.
    """

    max_norm: Size

    def combine(self, updates_KD: Tensor, weights_K: Tensor) -> Tensor:
        """See :class:`RobustRule`."""
        if not bool(weights_K.sum() > 0):
            weights_K = weights_K + 1
        scale_K = (self.max_norm / updates_KD.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)
        bounded_D: Tensor = (weights_K * scale_K) @ updates_KD
        return bounded_D / weights_K.sum()
