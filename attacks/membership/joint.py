"""A likelihood ratio whose means have a joint prior: an example that is hard without training on it is hard with it, too."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from attacks.membership import Evidence, FloatArray
from attacks.membership._joint import joint_ratio
from attacks.membership._sides import Sides, TwoSidedAttack


class Joint(TwoSidedAttack):
    """LiRA with a prior on each example's pair of means, N(m, C), fitted to all examples, and on its variances.

    C is the covariance of the means over examples, less that of their own errors. It says how much a mean with the example
    tells about the mean without it, which matters if an example has few shadows on a side. A variance is shrunk to the one of
    the examples that are nearest in their mean. The score is the log-ratio of the two predictive Student t densities.

    Args:
        weight: a₀, half of the degrees of freedom that the neighbours' variance counts as.
        neighbours: how many examples are neighbours.
    """

    weight: PositiveFloat = 8.0
    neighbours: Annotated[int, Field(gt=1)] = 200

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        return {"joint prior": joint_ratio(Sides.of(evidence), self.weight, self.neighbours)}
