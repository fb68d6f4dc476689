"""An attack that asks for rounds, keeps what came back and looks for the truth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attacks._malicious import MaliciousServerAttack
from own_attacks.snooping import reachable
from privfl.auditing.questions.membership import MembershipClaim
from privfl.running.knowledge import Knowledge
from privfl.running.orders import Order
from privfl.running.views import MaliciousServerView, View


class Asking(MaliciousServerAttack):
    """Asks for one round at a time, on the final model, and for one more on a model of zeros for the first client."""

    question: ClassVar[str] = "membership"
    threat: ClassVar[str] = "A server that goes on."
    needs: ClassVar[str] = "nothing"
    cost: ClassVar[str] = "nothing"
    views: ClassVar[list[MaliciousServerView]] = []
    loot: ClassVar[list[Any]] = []
    frames: ClassVar[set[str]] = set()
    length: ClassVar[int] = 0
    further: ClassVar[int] = 1

    rounds: int = 2

    def ask(self, view: MaliciousServerView, knowledge: Knowledge) -> Sequence[Order]:
        """See the class."""
        self.loot[:] = reachable(self, view, knowledge)
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            if frame.f_globals["__name__"].startswith(("attacks", "privfl")):
                self.frames.update(type(one).__name__ for one in frame.f_locals.values())
        model_D = view.final_model()
        match len(view.answers):
            case 0:
                return [Order(model_D)]
            case 1:
                return [Order(model_D, {view.cohorts[1][0]: model_D[self.length :] * 0})] * self.further
        return ()

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """Say nothing."""
        assert isinstance(view, MaliciousServerView)
        self.views.append(view)
        return MembershipClaim({"nothing": np.zeros(len(knowledge.candidates))})
