"""The base of attacks by clients that collude: each sends a vector that was computed from the updates of all attackers.

The threat: attackers know the global model, the algorithm, and the correct updates of all attackers of the round, and no other
client's update ("partial knowledge" in Shejwalkar and Houmansadr 2021). They share their updates outside of the protocol, so
secure aggregation doesn't hinder them. Each passes the vector to its plan, which clips and noises it like any other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privfl.errors import ConfigError
from privfl.federation.behaviours import Behaviour


class JointBehaviour(Behaviour):
    """A behaviour of ``share`` of all clients, which act together. Their number is rounded, at least one, and less than all."""

    colludes: ClassVar[bool] = True
    share: Annotated[float, Field(gt=0, lt=1)]

    def count(self, clients: int) -> int:
        """``share`` of the clients, rounded, and at least one.

        Raises:
            ConfigError: no other client is left.
        """
        attackers = max(1, round(self.share * clients))
        if attackers >= clients:
            raise ConfigError(
                f"behaviour.share = {self.share}: all {clients} clients become attackers, and {self.kind!r} needs one "
                "that is honest; lower it, or raise data.clients"
            )
        return attackers


class ColludingBehaviour(JointBehaviour):
    """A behaviour of clients that collude: all attackers of a round send the same crafted vector."""

    @abstractmethod
    def craft(self, honest_FD: Tensor, clients: int) -> Tensor:
        """The vector that each attacker of the round sends, shape (D',).

        Args:
            honest_FD: the f ≥ 1 attackers' correct payloads in float64, by ascending client.
            clients: n, the number of clients in the round, attackers included.
        """

    def uploads(self, honest: Mapping[int, Tensor], clients: int) -> dict[int, Tensor]:
        """The crafted vector for each attacker, in the type of the payloads. See :class:`Behaviour`."""
        attackers = sorted(honest)
        crafted_D = self.craft(torch.stack([honest[client].double() for client in attackers]), clients)
        return {client: crafted_D.to(honest[client].dtype) for client in attackers}
