"""Lower bound on the noise from the final model: is it what the run promises? (Nasr et al. 2023; Mahloujifar et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

from attacks.auditing import Audit
from attacks.auditing._signals import of_final_model
from privfl.adversaries import Adversary
from privfl.auditing.questions.noise import NoiseClaim
from privfl.running.knowledge import Knowledge
from privfl.running.views import View


class Noise(Audit):
    """Hold the scores of canaries by the final model against the mechanism of the run with its noise left open.

    Variants:
        ``loss``: minus the loss of each canary that is an input.
        ``direction``: how far the model moved in the direction of each canary that is a direction.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "noise"

    threat: ClassVar[str] = (
        "An auditor that planted canaries and is given the final model wants to know whether the noise is too small."
    )

    needs: ClassVar[str] = "canaries"

    cost: ClassVar[str] = "one pass over the canaries"

    def run(self, view: View, knowledge: Knowledge) -> NoiseClaim:
        """See :class:`attacks.Attack`."""
        return NoiseClaim(of_final_model(view, knowledge))
