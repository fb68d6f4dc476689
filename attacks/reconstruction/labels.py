"""Labels from the gradient of the last layer: iDLG for one example, counts for a batch (Zhao et al. 2020, "iDLG: Improved deep
leakage from gradients", section 3.2; counts: Wainakh et al. 2022, "User-level label leakage from gradients").
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from attacks.reconstruction import Found, ReconstructionAttack, Target
from attacks.reconstruction._labels import labels_of, require_classes
from privfl.running.knowledge import Knowledge, Prospect


class Labels(ReconstructionAttack):
    """Count how often each class comes behind an update.

    It is exact for one example and one local step. For a batch the mean prediction is that for fresh examples, so that some
    labels are wrong.

    Args:
        examples: how many labels; None: as many as the client's public size, its batch and its steps say.

    Variants:
        ``counts``: the labels by their counts; the only label if there is one example.
    """

    threat: ClassVar[str] = "A server that sees updates wants to know which classes the examples behind them have."

    needs: ClassVar[str] = "each client's update, or sums; a last layer that is linear; fresh data"

    cost: ClassVar[str] = "a pass forward over fresh data"

    most: PositiveInt = 100

    examples: PositiveInt | None = None

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the last layer gives a logit for each class."""
        require_classes(prospect.network, self.kind)
        super().require_possible(prospect)

    def reconstruct(self, target: Target, knowledge: Knowledge) -> dict[str, Found]:
        """See :class:`attacks.reconstruction.ReconstructionAttack`."""
        return {"counts": Found(None, labels_of(target, knowledge, self.examples or target.size(knowledge)))}
