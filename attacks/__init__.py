"""SHELVES of attacks: ``membership/``, ``inference/``, ``auditing/``, and later ``reconstruction/``.

An attack is one module with one class that derives from :class:`Attack`; its name in a configuration is
``shelf/file``, for example ``membership/lira``. It names its adversary and the question that it answers. It is given that
adversary's view and knowledge, and returns a claim, which is judged afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfl.adversaries import Adversary
from privfl.auditing.questions import Claim
from privfl.errors import ConfigError, ViewError
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.queries import require_images
from privfl.running.views import VIEWS, View
from privfl.tables import Item


class Attack(Item, ABC):
    """The contract of all attacks, whatever they ask."""

    adversary: ClassVar[Adversary]
    """Whose view the attack is given."""

    question: ClassVar[str]
    """The question that it answers: a file of ``privfl/auditing/questions``, or a dotted path of a module of your own."""

    threat: ClassVar[str] = ""
    """One sentence: what the adversary knows, and what it wants to know. Every item of this shelf has one."""

    needs: ClassVar[str] = ""
    """The data and models that the adversary must have beside the candidates, in a few words; every item states them."""

    cost: ClassVar[str] = ""
    """The computation that dominates, in a few words; every item states it."""

    least_shadows: ClassVar[int] = 0
    """How many shadow models it needs. A configuration with fewer is refused when it is loaded."""

    def require_possible(self, prospect: Prospect) -> None:
        """Refuse a run that the attack will not be able to attack; asked before its first round.

        Raises:
            ConfigError: names the setting, and says what to change.
            ViewError: the adversary has no part in such a run.
        """
        if self.adversary not in VIEWS:
            raise ViewError(f"adversary {self.adversary!r} of {self.kind!r}: has no part in a run; allowed: {', '.join(VIEWS)}")
        if self.adversary == "recipient" and not prospect.personal:
            raise ConfigError(
                f"attacks.run: {self.kind!r} looks at models of the clients' own, and the run's algorithm has none; set, for "
                "example, algorithm = 'ditto'"
            )
        if self.adversary not in ("external", "recipient") and not prospect.keeps_rounds:
            raise ConfigError(
                f"records.views = 'final': {self.kind!r} looks at what a {self.adversary} sees in rounds; "
                "set it to 'sums' or 'all'"
            )
        self.require_shadows(prospect.shadow_member_SN)
        require_images(prospect.input_shape, self.wanted_queries, f"attacks.run: {self.kind!r}")

    def require_shadows(self, member_SN: NDArray[np.bool_]) -> None:
        """Refuse shadow models that are too few for the attack.

        Args:
            member_SN: the candidates that each is trained on.

        Raises:
            ConfigError: that.
        """
        if len(member_SN) < self.least_shadows:
            raise ConfigError(
                f"attacks.shadow_models = {len(member_SN)}: {self.kind!r} needs at least {self.least_shadows}; raise it"
            )

    def blinded(self, knowledge: Knowledge) -> Knowledge:
        """The knowledge that :meth:`run` is given: without facts about the candidates that the attack is to find."""
        return knowledge

    @property
    def wanted_queries(self) -> int:
        """How many queries of each candidate it wants to see answered by the final model and by every shadow model.

        1: the candidate alone. More: its mirror image and shifts too (:mod:`privfl.running.queries`), as ``knowledge.queries``.
        """
        return 1

    @abstractmethod
    def run(self, view: View, knowledge: Knowledge) -> Claim:
        """Answer the question.

        Args:
            view: what the run showed to the adversary: :class:`privfl.running.views.ServerView` for the server, and so on.
            knowledge: the examples and models that the adversary brings.

        Returns:
            the question's kind of claim, for example :class:`privfl.auditing.questions.membership.MembershipClaim`.

        Raises:
            ViewError: the run did not show as much as the attack needs.
        """
