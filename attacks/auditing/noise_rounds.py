"""Lower bound on the noise from all that the server saw of the rounds (Nasr et al. 2023; Mahloujifar et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

from attacks.auditing import Audit
from attacks.auditing._signals import are_linear, of_rounds
from privfl.adversaries import Adversary
from privfl.auditing.questions.noise import NoiseClaim
from privfl.running.knowledge import Knowledge
from privfl.running.views import View


class NoiseRounds(Audit):
    """Hold what the server saw of canaries against the mechanism of the run with its noise left open.

    Variants:
        ``sum``: the inner products of the rounds' sums of updates with each canary's direction, summed over the rounds; that
            of a canary that is an input is minus its gradient.
        ``update``: the same with the noised updates of the canary's client alone, if the server sees them.
    """

    adversary: ClassVar[Adversary] = "server"

    question: ClassVar[str] = "noise"

    threat: ClassVar[str] = (
        "An auditor that planted canaries and sees what the server sees wants to know whether the noise is too small."
    )

    needs: ClassVar[str] = "canaries"

    cost: ClassVar[str] = "an inner product for each canary and round"

    def run(self, view: View, knowledge: Knowledge) -> NoiseClaim:
        """See :class:`attacks.Attack`."""
        return NoiseClaim(of_rounds(view, knowledge), linear=are_linear(knowledge))
