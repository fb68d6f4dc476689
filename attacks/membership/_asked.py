"""Membership from the rounds that a malicious server asks for: a score of each example in each of them, and their mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from attacks._malicious import MaliciousServerAttack
from attacks.membership import FloatArray
from attacks.membership._updates import mean_scores
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ViewError
from privfl.running.knowledge import Knowledge
from privfl.running.orders import Answer
from privfl.running.views import MaliciousServerView, View


class AskedMembership(MaliciousServerAttack):
    """A membership attack by a malicious server.

    The score of a variant is its mean over the rounds that say something about the example, the median of the others' scores if
    none does.
    """

    question: ClassVar[str] = "membership"

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: nothing came back.
        """
        assert isinstance(view, MaliciousServerView)
        came = [answer for answer in view.answers if answer.seen]
        found = mean_scores(self.score(answer, view, knowledge) for answer in came)
        if not found:
            raise nothing_came(self.kind, view)
        return MembershipClaim(found)

    @abstractmethod
    def score(self, answer: Answer, view: MaliciousServerView, knowledge: Knowledge) -> Mapping[str, FloatArray]:
        """Variant -> one score for each candidate, of shape (N,), higher means member; NaN if the round says nothing of it."""


def nothing_came(attack: str, view: MaliciousServerView) -> ViewError:
    """The error of an attack whose rounds say nothing of any example."""
    why = next((answer.failed for answer in view.answers if answer.failed), "no client of the cohorts has a candidate")
    return ViewError(f"{attack!r}: nothing came of the {len(view.answers)} rounds that it asked for: {why}")
