"""The contract of attacks by a malicious server: the models that it sends when the run is over, then its claim."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pydantic import PositiveInt

from attacks import Attack
from privfl.adversaries import Adversary
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.orders import Order
from privfl.running.views import MaliciousServerView


class MaliciousServerAttack(Attack):
    """An attack that asks the clients of a finished run for further rounds, on models of its choice.

    The clients work as in the run: the same plan with its clip and noise, algorithm, cohort rule and aggregator. Each
    round spends as much privacy as one of the run, beyond what the ledger prices.
    """

    adversary: ClassVar[Adversary] = "malicious_server"

    rounds: PositiveInt = 1
    """How many rounds it may ask for."""

    @abstractmethod
    def ask(self, view: MaliciousServerView, knowledge: Knowledge) -> Sequence[Order]:
        """The models to send in the next rounds; called again with the answers, until it asks for nothing more.

        Args:
            view: the server's view of the run, ``cohorts`` of the rounds to come, and ``answers`` so far.
            knowledge: the examples that it brings.

        Returns:
            an order for each round; none if it has seen enough. More than :attr:`rounds` in all are refused.
        """

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`. It needs no views of the run's own rounds."""
        self.require_shadows(prospect.shadow_member_SN)
