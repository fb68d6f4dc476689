"""ε from the cosines of canaries that have random directions: the one-shot estimate of Andrew et al. 2023, section 3."""

from __future__ import annotations

from typing import ClassVar

from attacks.auditing import Audit
from attacks.auditing._signals import cosines
from privfl.adversaries import Adversary
from privfl.auditing.questions.estimate import EstimateClaim
from privfl.errors import ConfigError
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.views import View


class OneShot(Audit):
    """The cosines of the way from the first model to the final one with the directions of the canaries that were in.

    In D dimensions a random direction that was not in has a cosine of N(0, 1/D), so that nobody need be left out for it.

    Variants:
        ``cosine``: as above.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "estimate"

    threat: ClassVar[str] = "An auditor that planted canaries and is given the final model wants a guess at ε that is no bound."

    needs: ClassVar[str] = "canaries"

    cost: ClassVar[str] = "one pass over the canaries"

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.auditing.Audit`: canaries have random directions."""
        super().require_possible(prospect)
        if getattr(prospect.canaries, "direction", None) != "random":
            raise ConfigError(
                f"canaries: {self.kind!r} needs canaries that have random directions; set canaries.direction = 'random'"
            )

    def run(self, view: View, knowledge: Knowledge) -> EstimateClaim:
        """See :class:`attacks.Attack`."""
        return EstimateClaim({"cosine": cosines(view, knowledge)}, knowledge.network.layout.size)
