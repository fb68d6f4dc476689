"""The geometric median by smoothed Weiszfeld steps, RFA (Pillutla, Kakade & Harchaoui 2022, "Robust aggregation for FL")."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor

from privfl.federation.aggregators._rows import RobustRule
from privfl.tables import Size


class GeometricMedian(RobustRule):
    """The point z with the least Σ_i p_i ‖z − Δ_i‖, with p_i the clients' weights; it withstands less than half of the weight.

    It begins at the weighted mean. Each step is z ← Σ w_i Δ_i / Σ w_i with w_i = p_i / max(``smoothing``, ‖z − Δ_i‖)
    (algorithm 2). It ends if a step is shorter than ``tolerance`` times the median distance from z to an update, or after
    ``iterations`` steps. The authors take 4 at most.
    """

    iterations: PositiveInt = 100
    smoothing: Size = 1e-5
    tolerance: Size = 1e-6

    def combine(self, updates_KD: Tensor, weights_K: Tensor) -> Tensor:
        """See :class:`RobustRule`."""
        if not bool(weights_K.sum() > 0):
            return updates_KD.mean(0)
        centre_D = weights_K @ updates_KD / weights_K.sum()
        for _ in range(self.iterations):
            closeness_K = weights_K / (updates_KD - centre_D).norm(dim=1).clamp_min(self.smoothing)
            before_D, centre_D = centre_D, closeness_K @ updates_KD / closeness_K.sum()
            # The median distance is an honest client's. The sum of distances is as large as a corrupt client likes, so that a
            # change relative to it would end the steps far from the honest clients.
            honest = (updates_KD - centre_D).norm(dim=1).median()
            if bool((centre_D - before_D).norm() <= self.tolerance * honest):
                break
        return centre_D
