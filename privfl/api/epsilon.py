"""The ε of a run as a number that knows its terms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self

from privfl.records import PrivacyResult


class Epsilon(float):
    """The ε that a run promised: a float, the largest over its clients, with its terms and each client's own ε.

    ``epsilon["hospital 3"]`` is the ε of one client. Without a promise every ε is infinite, and the terms are None.

    Args:
        value: the largest ε over the clients.
        clients: each client's ε, by the client's name.
        delta: the δ at which it holds.
        unit: whose presence is protected, ``"example"`` or ``"client"``.
        relation: the neighbouring relation, for example ``"add_or_remove_one"``.
    """

    clients: Mapping[str, float]
    delta: float | None
    unit: str | None
    relation: str | None

    def __new__(
        cls,
        value: float,
        clients: Mapping[str, float],
        delta: float | None = None,
        unit: str | None = None,
        relation: str | None = None,
    ) -> Self:
        """Make the number with its terms, as the class says."""
        made = super().__new__(cls, value)
        made.clients, made.delta, made.unit, made.relation = MappingProxyType(dict(clients)), delta, unit, relation
        return made

    @classmethod
    def of(cls, privacy: PrivacyResult | None, clients: Iterable[str]) -> Self:
        """The ε of a finished run.

        Args:
            privacy: what was promised; None if nothing was.
            clients: all clients' names, in their order.
        """
        if privacy is None:
            return cls(math.inf, dict.fromkeys(clients, math.inf))
        by_name = dict(zip(clients, privacy.epsilon_clients, strict=True))
        return cls(privacy.epsilon, by_name, privacy.delta, privacy.unit, privacy.relation)

    def __getitem__(self, client: str) -> float:
        """The ε of one client.

        Raises:
            KeyError: the run has no client of that name.
        """
        if client not in self.clients:
            some = ", ".join(map(repr, list(self.clients)[:5]))
            raise KeyError(f"the run has no client {client!r}; among its {len(self.clients)} are {some}")
        return self.clients[client]

    def __repr__(self) -> str:
        if self.delta is None:
            return "inf (nothing is promised)"
        return f"{float(self)!r} (per {self.unit}, δ = {self.delta:g}, {self.relation})"

    def __str__(self) -> str:
        return float.__repr__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (float(self), dict(self.clients), self.delta, self.unit, self.relation)
