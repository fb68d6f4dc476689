"""Lower bound on ε from the final model: which canaries was it trained on? (Steinke, Nasr & Jagielski 2023)."""

from __future__ import annotations

from typing import ClassVar

from attacks.auditing import Audit
from attacks.auditing._signals import of_final_model
from privfl.adversaries import Adversary
from privfl.auditing.questions._scores import ScoresClaim
from privfl.running.knowledge import Knowledge
from privfl.running.views import View


class OneRun(Audit):
    """Guess which canaries the final model was trained on; the right guesses refute every smaller ε.

    Variants:
        ``loss``: minus the loss of each canary that is an input.
        ``direction``: how far the model moved in the direction of each canary that is a direction.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "epsilon"

    threat: ClassVar[str] = "An auditor that planted canaries and is given the final model wants to know how large ε must be."

    needs: ClassVar[str] = "canaries"

    cost: ClassVar[str] = "one pass over the canaries"

    def run(self, view: View, knowledge: Knowledge) -> ScoresClaim:
        """See :class:`attacks.Attack`."""
        return ScoresClaim(of_final_model(view, knowledge))
