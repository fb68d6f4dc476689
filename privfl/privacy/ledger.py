"""The record of every noise draw: append-only, and the only source of ε."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from privfl.errors import PrivacyError, RunFolderError, first_line
from privfl.privacy import accounting
from privfl.privacy.accounting import Accountant
from privfl.privacy.events import CohortSum, Event, Unit
from privfl.privacy.mechanisms import History, Relation
from privfl.tables import Frozen

Account = int | Literal["everybody"]
"""Whose budget a release is charged to: one client's, or that of all clients alike."""


class Entry(Frozen):
    """What was spent in one round on one account."""

    round: int
    account: Account
    event: Event


@dataclass
class Ledger:
    """All entries of a run, in the order in which they were made.

    **Guarantees.** ε is computed from the entries and nothing else. What one account holds composes; accounts of different
    clients hold disjoint data (of examples) or different clients, so the run's ε is the largest over the accounts. A
    ledger holds one unit of protection only, and a plan does not change within a run, but for a norm that adapts.

    Args:
        delta: the δ at which ε is stated.
        relation: what two neighbours differ in, for the headline.
        entries: what was spent so far.
    """

    delta: float
    relation: Relation = "add_or_remove_one"
    entries: list[Entry] = field(default_factory=list)
    _spent: dict[Account, tuple[Event, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            self._spent[entry.account] = self._after(entry.account, entry.event)

    def record(self, round_number: int, events: Mapping[Account, Event]) -> None:
        """Add what was spent in a round, by account.

        Raises:
            PrivacyError: a round is entered twice, rounds go backwards, units are mixed, or a plan changed.
        """
        last = self.entries[-1].round if self.entries else -1
        if round_number <= last and events:
            raise PrivacyError(
                f"round {round_number} is entered after round {last}; a ledger only grows, a round is entered once"
            )
        for account, event in sorted(events.items(), key=lambda item: str(item[0]).zfill(9)):
            self._spent[account] = self._after(account, event)
            self.entries.append(Entry(round=round_number, account=account, event=event))

    @property
    def unit(self) -> Unit | None:
        """What is protected; None before anything was spent."""
        return self.entries[0].event.unit if self.entries else None

    def as_json(self) -> dict[str, Any]:
        """What :meth:`read` reads."""
        entries = [entry.model_dump() for entry in self.entries]
        return {"delta": self.delta, "relation": self.relation, "entries": entries}

    @classmethod
    def read(cls, path: Path, rounds: int | None = None) -> Ledger:
        """The ledger that lies at ``path``.

        Args:
            path: a JSON file.
            rounds: only what was spent in so many first rounds; None: all of it.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        try:
            written = json.loads(path.read_bytes())
            entries = [Entry.model_validate(entry) for entry in written["entries"]]
            kept = [entry for entry in entries if rounds is None or entry.round < rounds]
            return cls(written["delta"], written["relation"], kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = first_line(error)
            raise RunFolderError(f"{path}: is missing or damaged ({why}); begin the run anew") from None

    def epsilon(self, accountant: Accountant | None = None) -> float:
        """The largest ε over the accounts; 0 before anything was spent.

        Args:
            accountant: who prices; None: the best that can.

        Raises:
            PrivacyError: that accountant cannot price this.
        """
        return accounting.largest(self.histories(), self.delta, accountant)

    def epsilon_with(self, events: Mapping[Account, Event]) -> float:
        """What :meth:`epsilon` would be if this were done too; nothing is recorded."""
        after = {**self._spent, **{account: self._after(account, event) for account, event in events.items()}}
        return accounting.largest([_history(*one, self.relation) for one in after.values()], self.delta)

    def clients(self, count: int) -> list[float]:
        """ε of each of the clients 0 to ``count`` − 1."""
        everybody = self._spent.get("everybody")
        spent = [everybody or self._spent.get(client) for client in range(count)]
        return [accounting.epsilon(_history(*one, self.relation), self.delta) if one else 0.0 for one in spent]

    def histories(self, relation: Relation | None = None) -> list[History]:
        """What each account went through, under the ledger's relation or another."""
        return [_history(event, times, relation or self.relation) for event, times in self._spent.values()]

    def accounts(self) -> dict[Account, History]:
        """The same by account, under the ledger's relation."""
        return {account: _history(*one, self.relation) for account, one in self._spent.items()}

    def agrees_with(self, other: Ledger) -> bool:
        """Whether both hold the same spending; the norm that a round had may differ."""
        terms = [(one.delta, one.relation) for one in (self, other)]
        spent = [
            [(entry.round, entry.account, _but_for_the_norm(entry.event)) for entry in one.entries] for one in (self, other)
        ]
        return terms[0] == terms[1] and spent[0] == spent[1]

    def _after(self, account: Account, event: Event) -> tuple[Event, int]:
        mechanism = _but_for_the_norm(event)
        if self.unit not in (None, event.unit):
            raise PrivacyError(f"an event about one {event.unit} among events about one {self.unit}; units are never mixed")
        before = self._spent.get(account)
        if before is None:
            return mechanism, 1
        if before[0] is not mechanism and before[0] != mechanism:
            raise PrivacyError(
                f"account {account} changed from {before[0]} to {mechanism} within a run; a plan is fixed for a run"
            )
        return mechanism, before[1] + 1


@functools.lru_cache(maxsize=4096)
def _history(event: Event, times: int, relation: Relation) -> History:
    return event.releases(times, relation)


def _but_for_the_norm(event: Event) -> Event:
    """Noise is relative to the norm, so that a norm which adapts makes no other mechanism."""
    return event.model_copy(update={"max_update_norm": 1.0}) if isinstance(event, CohortSum) else event
