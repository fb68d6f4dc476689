"""Attack-P: the loss beside that of a population of non-members (Ye et al. 2022, section 4.2). No shadow models."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks.membership import Evidence, FloatArray, MembershipAttack
from attacks.membership._sides import surprise


class AttackP(MembershipAttack):
    """The share of fresh examples on which the target's loss is larger; ties count half.

    The threshold at a false-positive rate is thereby a quantile of non-members. The order is that of the loss, in steps of one
    over the population.
    """

    threat: ClassVar[str] = "An adversary with the final model and fresh data wants to know who was trained on."

    needs: ClassVar[str] = "the final model, fresh data"

    cost: ClassVar[str] = "a pass forward over candidates and fresh data"

    needs_population: ClassVar[bool] = True

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        loss_N = surprise(evidence.signals.target_N)
        loss_P = np.sort(surprise(evidence.signals.population_P))
        below_N, upto_N = (np.searchsorted(loss_P, loss_N, side=side) for side in ("left", "right"))
        return {"population": 1 - (below_N + upto_N) / (2 * len(loss_P))}
