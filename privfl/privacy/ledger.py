"""The record of every noise draw: append-only, and the only source of ε."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from privfl.config import Frozen
from privfl.errors import PrivacyError
from privfl.privacy.accounting import Composition, epsilon, epsilon_rdp, largest
from privfl.privacy.events import LocalTraining


class Entry(Frozen):
    """What one client spent in one round."""

    round: int
    client: int
    unit: Literal["example"] = "example"
    adversary: Literal["server"] = "server"
    relation: Literal["add_or_remove_one"] = "add_or_remove_one"
    sampler: Literal["poisson"] = "poisson"
    event: LocalTraining


@dataclass
class Ledger:
    """All entries of a run, in the order in which they were made.

    **Guarantees.** ε is computed from the entries and nothing else. A client's entries compose; clients hold disjoint
    data, so the run's ε is the largest over the clients.

    Args:
        delta: the δ at which ε is stated.
        entries: what was spent so far.
    """

    delta: float
    entries: list[Entry] = field(default_factory=list)
    _compositions: dict[int, Composition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            self._compositions[entry.client] = self._after(entry.client, entry.event)

    def record(self, round_number: int, events: Mapping[int, LocalTraining]) -> None:
        """Add what each client of a round did, by client.

        Raises:
            PrivacyError: a round is entered twice, rounds go backwards, or a client changed its plan.
        """
        last = self.entries[-1].round if self.entries else -1
        if round_number <= last and events:
            raise PrivacyError(
                f"round {round_number} is entered after round {last}; a ledger only grows, a round is entered once"
            )
        for client, event in sorted(events.items()):
            self._compositions[client] = self._after(client, event)
            self.entries.append(Entry(round=round_number, client=client, event=event))

    def epsilon(self) -> float:
        """The largest ε over the clients, by PLD; 0 before anything was spent."""
        return largest(self._compositions.values(), lambda one: epsilon(one, self.delta))

    def epsilon_rdp(self) -> float:
        """The same by RDP."""
        return largest(self._compositions.values(), lambda one: epsilon_rdp(one, self.delta))

    def epsilon_with(self, events: Mapping[int, LocalTraining]) -> float:
        """What :meth:`epsilon` would be if the clients also did this; nothing is recorded."""
        after = {**self._compositions, **{client: self._after(client, event) for client, event in events.items()}}
        return largest(after.values(), lambda one: epsilon(one, self.delta))

    def clients(self, count: int) -> list[float]:
        """Each client's ε by PLD, for clients 0 to ``count`` − 1."""
        return [
            epsilon(self._compositions[client], self.delta) if client in self._compositions else 0.0 for client in range(count)
        ]

    def compositions(self) -> Sequence[Composition]:
        """What each client that took part went through."""
        return list(self._compositions.values())

    def _after(self, client: int, event: LocalTraining) -> Composition:
        before = self._compositions.get(client)
        if before is None:
            return Composition(event.sample_rate, event.noise_multiplier, event.steps)
        if (before.sample_rate, before.noise_multiplier) != (event.sample_rate, event.noise_multiplier):
            raise PrivacyError(
                f"client {client} changed from rate {before.sample_rate:g} and noise {before.noise_multiplier:g} to "
                f"{event.sample_rate:g} and {event.noise_multiplier:g} within a run; a plan is fixed for a run"
            )
        return Composition(before.sample_rate, before.noise_multiplier, before.steps + event.steps)
