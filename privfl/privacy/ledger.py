"""The record of every noise draw: append-only, and the only source of ε."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from privfl.errors import PrivacyError, RunFolderError, first_line
from privfl.privacy import accounting
from privfl.privacy.accounting import Accountant
from privfl.privacy.events import Event, Unit
from privfl.privacy.mechanisms import History, Relation
from privfl.storage import write_atomic
from privfl.tables import Frozen

Account = int | Literal["everybody"]
"""Whose budget a release is charged to: one client's, or that of all clients alike."""


class Terms(Frozen):
    """The first line of a ledger's file: the terms in which ε is stated."""

    delta: float
    relation: Relation


class Charge(Frozen):
    """An event, and the accounts that each spent it."""

    accounts: list[Account]
    event: Event


class Entry(Frozen):
    """Every other line of a ledger's file: what one round spent."""

    round: int
    spent: list[Charge]

    @classmethod
    def of(cls, round_number: int, events: Mapping[Account, Event]) -> Entry:
        """The entry of a round in which each account spent its event."""
        by_event: dict[Event, list[Account]] = {}
        for account, event in sorted(events.items(), key=lambda item: str(item[0]).zfill(9)):
            by_event.setdefault(event, []).append(account)
        return cls(round=round_number, spent=[Charge(accounts=whose, event=event) for event, whose in by_event.items()])

    def events(self) -> dict[Account, Event]:
        """Event by account."""
        return {account: charge.event for charge in self.spent for account in charge.accounts}


@dataclass
class Ledger:
    """What the rounds of a run spent so far, account by account.

    **Guarantees.** ε is computed from the entries and nothing else. What one account holds composes; accounts of different
    clients hold disjoint data (of examples) or different clients, so the run's ε is the largest over the accounts. A
    ledger holds one unit of protection only, and a plan does not change within a run, but for a norm that adapts.

    The entries are in the file. In memory are counts, since an account repeats one event: neither a round nor its price takes
    longer as rounds go by.

    Args:
        delta: the δ at which ε is stated.
        relation: what two neighbours differ in, for the headline.
        rounds: how many were entered.
    """

    delta: float
    relation: Relation = "add_or_remove_one"
    rounds: int = 0
    _spent: dict[Account, tuple[Event, int]] = field(default_factory=dict)
    # How often each event was repeated by the account that repeated it most: no other account of that event costs more.
    _most: dict[Event, int] = field(default_factory=dict)

    def record(self, round_number: int, events: Mapping[Account, Event]) -> None:
        """Add what a round spent, by account; a round that spent nothing is entered too.

        Raises:
            PrivacyError: another round comes next, units are mixed, or a plan changed; nothing is added.
        """
        if round_number != self.rounds:
            raise PrivacyError(
                f"round {round_number} is entered where round {self.rounds} comes next; "
                "a ledger only grows, and a round is entered once"
            )
        after = self._after(events)
        self._most = self._most_after(after)
        self._spent.update(after)
        self.rounds += 1

    @property
    def unit(self) -> Unit | None:
        """What is protected; None before anything was spent."""
        return next(iter(self._most)).unit if self._most else None

    def begin(self, path: Path) -> None:
        """Write the file of a new ledger, to which the :class:`Entry` of each round is appended.

        Raises:
            RunFolderError, StorageError: it cannot be written.
        """
        write_atomic(path, Terms(delta=self.delta, relation=self.relation).model_dump_json().encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The whole ledger that lies at ``path``.

        Raises:
            RunFolderError: the file is missing or damaged; a crash may have cut its last line.
        """
        lines = _lines(path)
        terms = _terms(path, lines)
        ledger = cls(terms.delta, terms.relation)
        for line in lines:
            if not line.endswith(b"\n"):
                raise RunFolderError(f"{path}: its last line was cut; mend it with --resume")
            ledger._take(path, line)
        return ledger

    def resume(self, path: Path, rounds: int, planned: Callable[[int], Mapping[Account, Event]]) -> None:
        """Take over the first rounds of the file at ``path``; nothing behind them is looked at.

        Args:
            path: the file of a ledger in the same terms.
            rounds: how many.
            planned: what each round must have spent, but for the norm that it had.

        Raises:
            RunFolderError: the file is missing, damaged or too short, or holds something else.
        """
        lines = _lines(path)
        foreign = RunFolderError(f"{path}: is not what {rounds} rounds of this run spent; begin it anew with --overwrite")
        if _terms(path, lines) != Terms(delta=self.delta, relation=self.relation):
            raise foreign
        for number in range(rounds):
            entry = self._take(path, next(lines, b""))
            if _but_for_norms(entry.events()) != _but_for_norms(planned(number)):
                raise foreign

    def _take(self, path: Path, line: bytes) -> Entry:
        try:
            entry = Entry.model_validate_json(line)
            self.record(entry.round, entry.events())
        except (ValidationError, PrivacyError) as error:
            raise _damaged(path, error) from None
        return entry

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
        most = self._most_after(self._after(events))
        return accounting.largest([_history(*one, self.relation) for one in most.items()], self.delta)

    def clients(self, count: int) -> list[float]:
        """ε of each of the clients 0 to ``count`` − 1."""
        everybody = self._spent.get("everybody")
        spent = [everybody or self._spent.get(client) for client in range(count)]
        return [accounting.epsilon(_history(*one, self.relation), self.delta) if one else 0.0 for one in spent]

    def histories(self, relation: Relation | None = None) -> list[History]:
        """What the accounts went through that repeated an event most, one for each event; no other account costs more.

        Args:
            relation: what two neighbours differ in; None: the ledger's own.
        """
        return [_history(event, times, relation or self.relation) for event, times in self._most.items()]

    def accounts(self) -> dict[Account, History]:
        """What each account went through, under the ledger's relation."""
        return {account: _history(*one, self.relation) for account, one in self._spent.items()}

    def _after(self, events: Mapping[Account, Event]) -> dict[Account, tuple[Event, int]]:
        """What the accounts of a round will have repeated, and how often.

        Raises:
            PrivacyError: units are mixed, or a plan changed.
        """
        unit, after = self.unit, {}
        for account, event in events.items():
            mechanism, (before, times) = event.but_for_norm(), self._spent.get(account, (None, 0))
            unit = unit or event.unit
            if unit != event.unit:
                raise PrivacyError(f"an event about one {event.unit} among events about one {unit}; units are never mixed")
            if before is not None and before is not mechanism and before != mechanism:
                raise PrivacyError(
                    f"account {account} changed from {before} to {mechanism} within a run; a plan is fixed for a run"
                )
            after[account] = (mechanism, times + 1)
        return after

    def _most_after(self, after: Mapping[Account, tuple[Event, int]]) -> dict[Event, int]:
        most = dict(self._most)
        for event, times in after.values():
            most[event] = max(most.get(event, 0), times)
        return most


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a ledger's file, one after the other.

    Raises:
        RunFolderError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise _damaged(path, error) from None


def _terms(path: Path, lines: Iterator[bytes]) -> Terms:
    try:
        return Terms.model_validate_json(next(lines, b""))
    except ValidationError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: OSError | ValidationError | PrivacyError) -> RunFolderError:
    why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
    return RunFolderError(f"{path}: is missing or damaged ({why}); begin the run anew with --overwrite")


@functools.lru_cache(maxsize=4096)
def _history(event: Event, times: int, relation: Relation) -> History:
    return event.releases(times, relation)


def _but_for_norms(events: Mapping[Account, Event]) -> dict[Account, Event]:
    return {account: event.but_for_norm() for account, event in events.items()}
