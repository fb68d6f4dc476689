"""ε between two Gaussians that are fitted to the scores of canaries: an estimate, above the truth more often than not."""

from __future__ import annotations

from typing import ClassVar

from attacks.auditing import Audit
from attacks.auditing._signals import of_final_model
from privfl.adversaries import Adversary
from privfl.auditing.questions.estimate import EstimateClaim
from privfl.running.knowledge import Knowledge
from privfl.running.views import View


class TwoGaussians(Audit):
    """Two Gaussians with mean and deviation of the scores of both kinds of canaries.

    Variants:
        ``loss``: of canaries that are inputs; ``direction``: of canaries that are directions, as in ``auditing/one_run``.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "estimate"

    threat: ClassVar[str] = "An auditor that planted canaries and is given the final model wants a guess at ε that is no bound."

    needs: ClassVar[str] = "canaries"

    cost: ClassVar[str] = "one pass over the canaries"

    def run(self, view: View, knowledge: Knowledge) -> EstimateClaim:
        """See :class:`attacks.Attack`."""
        return EstimateClaim(of_final_model(view, knowledge), 0)
