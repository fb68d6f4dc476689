"""Ledger: an append-only record of the privacy events of a run, and the only source of its ε."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from privfl.errors import PrivacyError, RunFolderError, first_line
from privfl.privacy import accounting
from privfl.privacy.accounting import Accountant
from privfl.privacy.events import Event, Unit
from privfl.privacy.mechanisms import Gaussian, History, Relation
from privfl.storage import write_atomic
from privfl.tables import Frozen

Account = int | Literal["everybody"]
"""The budget that a release is charged to: that of one client, by its number, or that of all clients alike."""


class Terms(Frozen):
    """The terms in which ε is stated, and the statistics spent before: the first line of a ledger's file."""

    delta: float
    relation: Relation
    statistics: Annotated[tuple[float, ...], Field(strict=False, exclude_if=lambda spent: not spent)] = ()


class Charge(Frozen):
    """An event, and the accounts that spent it, each on its own."""

    accounts: list[Account]
    event: Event


class Entry(Frozen):
    """The charges of one round: one line of a ledger's file after the first."""

    round: int
    spent: list[Charge]

    @classmethod
    def of(cls, round_number: int, events: Mapping[Account, Event]) -> Entry:
        """The entry of a round, from the event that each account spent."""
        by_event: dict[Event, list[Account]] = {}
        for account, event in sorted(events.items(), key=lambda item: str(item[0]).zfill(9)):
            by_event.setdefault(event, []).append(account)
        return cls(round=round_number, spent=[Charge(accounts=whose, event=event) for event, whose in by_event.items()])

    def events(self) -> dict[Account, Event]:
        """The event that each account spent."""
        return {account: charge.event for charge in self.spent for account in charge.accounts}


@dataclass
class Ledger:
    """The privacy events that each account has spent in the rounds of a run so far.

    **Guarantees.** ε is computed from the entries and nothing else. The events of one account compose. Accounts of different
    clients are about disjoint examples or about different clients, so the run's ε is the largest over the accounts. A ledger
    holds one unit of privacy only. The plan does not change within a run, except for a norm that adapts.

    The entries are in the file. Memory holds only counts, because an account repeats one event, so neither a round nor its
    price takes longer as rounds go by.

    Args:
        delta: the δ at which ε is stated.
        relation: the neighbouring relation of the headline ε.
        rounds: number of rounds entered.
        statistics: noise multipliers of Gaussian releases about the examples of the only client, account 0, before the first
            round.
    """

    delta: float
    relation: Relation = "add_or_remove_one"
    rounds: int = 0
    statistics: tuple[float, ...] = ()
    _spent: dict[Account, tuple[Event, int]] = field(default_factory=dict)
    # For each event, the most times that one account repeated it; no other account of that event costs more.
    _most: dict[Event, int] = field(default_factory=dict)

    def record(self, round_number: int, events: Mapping[Account, Event]) -> None:
        """Add a round's events by account; a round without events is entered too.

        Raises:
            PrivacyError: the round is not the next one, units are mixed, or the plan changed; then nothing is added.
        """
        if round_number != self.rounds:
            raise PrivacyError(
                f"round {round_number} cannot be entered: must be round {self.rounds}, as each round is entered once; "
                "enter the rounds in order"
            )
        after = self._after(events)
        self._most = self._most_after(after)
        self._spent.update(after)
        self.rounds += 1

    @property
    def unit(self) -> Unit | None:
        """The unit of privacy; None before anything was spent."""
        return next(iter(self._most)).unit if self._most else None

    def begin(self, path: Path) -> None:
        """Write the file of a new ledger, to which the :class:`Entry` of each round is appended.

        Raises:
            RunFolderError, StorageError: the file cannot be written.
        """
        write_atomic(path, self._terms().model_dump_json().encode() + b"\n")

    def _terms(self) -> Terms:
        return Terms(delta=self.delta, relation=self.relation, statistics=self.statistics)

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The whole ledger in the file at ``path``.

        Raises:
            RunFolderError: the file is missing or damaged, or a crash has cut its last line.
        """
        lines = _lines(path)
        terms = _terms(path, lines)
        ledger = cls(terms.delta, terms.relation, statistics=terms.statistics)
        for line in lines:
            if not line.endswith(b"\n"):
                raise RunFolderError(f"{path}: its last line was cut; mend it with --resume")
            ledger._take(path, line)
        return ledger

    def resume(self, path: Path, rounds: int, planned: Callable[[int], Mapping[Account, Event]]) -> None:
        """Take over the first rounds of the file at ``path``; later lines are ignored.

        Args:
            path: the file of a ledger in the same terms.
            rounds: number of rounds to take over.
            planned: gives the events that a round must have spent; their norms may differ.

        Raises:
            RunFolderError: the file is missing, damaged or too short, or its events are not those that were planned.
        """
        lines = _lines(path)
        foreign = RunFolderError(f"{path}: is not what {rounds} rounds of this run spent; begin it anew with --overwrite")
        if _terms(path, lines) != self._terms():
            raise foreign
        for number in range(rounds):
            entry = self._take(path, next(lines, b""))
            if _without_norms(entry.events()) != _without_norms(planned(number)):
                raise foreign

    def _take(self, path: Path, line: bytes) -> Entry:
        try:
            entry = Entry.model_validate_json(line)
            self.record(entry.round, entry.events())
        except (ValidationError, PrivacyError) as error:
            raise _damaged(path, error) from None
        return entry

    def epsilon(self, accountant: Accountant | None = None) -> float:
        """The largest ε over the accounts, statistics included; 0 before anything was spent.

        Args:
            accountant: prices the histories; None: the best one for each.

        Raises:
            PrivacyError: the accountant cannot price a history.
        """
        return accounting.largest_epsilon(self.histories(), self.delta, accountant)

    def epsilon_with(self, events: Mapping[Account, Event]) -> float:
        """The ε that :meth:`epsilon` would give if these events were spent too; nothing is recorded."""
        most = self._most_after(self._after(events))
        return accounting.largest_epsilon(self._histories(most, self.relation), self.delta)

    def client_epsilons(self, count: int) -> list[float]:
        """ε of each client from 0 to ``count`` − 1."""
        everybody, accounts = self._spent.get("everybody"), self.accounts()
        whose: list[Account] = ["everybody" if everybody else client for client in range(count)]
        return [accounting.epsilon(accounts.get(one, History()), self.delta) for one in whose]

    def histories(self, relation: Relation | None = None) -> list[History]:
        """For each event, the history of the account that repeated it most; no other account costs more.

        Args:
            relation: the neighbouring relation; None: the ledger's own.
        """
        return self._histories(self._most, relation or self.relation)

    def accounts(self) -> dict[Account, History]:
        """The history of each account, under the ledger's relation."""
        before = statistics_history(self.statistics, self.relation)
        found: dict[Account, History] = {0: before} if before else {}
        return found | {account: before + _history(*one, self.relation) for account, one in self._spent.items()}

    def _histories(self, most: Mapping[Event, int], relation: Relation) -> list[History]:
        before = statistics_history(self.statistics, relation)
        found = [before + _history(*one, relation) for one in most.items()]
        return found or ([before] if before else [])

    def _after(self, events: Mapping[Account, Event]) -> dict[Account, tuple[Event, int]]:
        """For each account of a round: its event, and the number of repetitions after the round.

        Raises:
            PrivacyError: units are mixed, or the plan changed.
        """
        unit, after = self.unit, {}
        for account, event in events.items():
            mechanism, (before, times) = event.without_norm(), self._spent.get(account, (None, 0))
            unit = unit or event.unit
            if unit != event.unit:
                raise PrivacyError(
                    f"an event about one {event.unit} in a ledger about one {unit}: must be the same unit; keep two ledgers"
                )
            if before is not None and before is not mechanism and before != mechanism:
                raise PrivacyError(
                    f"account {account} changed from {before} to {mechanism}: must be the same in all rounds; begin a new run"
                )
            after[account] = (mechanism, times + 1)
        return after

    def _most_after(self, after: Mapping[Account, tuple[Event, int]]) -> dict[Event, int]:
        most = dict(self._most)
        for event, times in after.values():
            most[event] = max(most.get(event, 0), times)
        return most


def statistics_history(noise_multipliers: Sequence[float], relation: Relation) -> History:
    """The history of Gaussian releases of these noise multipliers about one example."""
    return sum((History({Gaussian(noise, relation): 1}) for noise in noise_multipliers), History())


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a ledger's file, one after the other.

    Raises:
        RunFolderError: the file cannot be read.
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


def _without_norms(events: Mapping[Account, Event]) -> dict[Account, Event]:
    return {account: event.without_norm() for account, event in events.items()}
