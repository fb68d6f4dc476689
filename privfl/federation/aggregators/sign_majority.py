"""The majority of signs, coordinate by coordinate (Bernstein et al. 2019, "signSGD with majority vote")."""

from __future__ import annotations

from torch import Tensor

from privfl.federation.aggregators._rows import RobustRule
from privfl.tables import Size


class SignMajority(RobustRule):
    """``step`` times the sign of Σ_i sign(Δ_i), coordinate by coordinate; 0 if as many are above 0 as are below.

    Each client has one vote, whatever its update's size or weight. Every coordinate moves by as much, so ``step`` is the
    learning rate that counts.
    """

    step: Size

    def combine(self, updates_KD: Tensor, weights_K: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`RobustRule`."""
        return self.step * updates_KD.sign().sum(0).sign()
