"""Memory of a client: the attempts in which it took part, and the rounds of which it helped to release a sum.

The same update in two sums over different clients gives away the difference of the sums, which may be one client's update. A
client therefore helps to release at most one sum of a round, and uses each attempt's number once. It takes attempts in
ascending order of round and attempt, so that three numbers for each run are all that it has to remember.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

from privfl.errors import ProtocolError, StorageError

_FORMAT: Final = "privfl secagg memory"


@dataclass(frozen=True)
class Progress:
    """A client's progress in one run: its last attempt, and the last round of which it helped to release a sum; −1: none."""

    round: int = -1
    attempt: int = -1
    released: int = -1


class Memory:
    """A client's memory in this process, for simulations and tests. A real client needs :class:`StoredMemory`."""

    def __init__(self) -> None:
        self._runs: dict[str, Progress] = {}

    def of(self, run: str) -> Progress:
        """The client's progress in a run."""
        return self._runs.get(run, Progress())

    def begin(self, run: str, number: int, attempt: int) -> None:
        """Record that the client takes part in an attempt; called before anything is sent.

        Raises:
            ProtocolError: the attempt does not come after the last one, or the client helped to release a sum of this round or
                a later one.
            StorageError: the record cannot be stored.
        """
        self.check(run, number)
        last = self.of(run)
        if (number, attempt) <= (last.round, last.attempt):
            raise ProtocolError(
                f"attempt {attempt} at round {number} of run {run!r}: must come after attempt {last.attempt} at round "
                f"{last.round}, for each is used once; go on with the next attempt or round"
            )
        self._keep(run, replace(last, round=number, attempt=attempt))

    def check(self, run: str, number: int) -> None:
        """Refuse a round of which the client helped to release a sum.

        Raises:
            ProtocolError: it helped to release one of this round or a later one.
        """
        released = self.of(run).released
        if number <= released:
            raise ProtocolError(
                f"this client helped to release a sum of round {released} in another attempt, and a second one could tell "
                "updates apart; go on with the next round"
            )

    def release(self, run: str, number: int) -> None:
        """Record that the client helps to release a sum of a round; called before the answer that does so is made.

        Raises:
            ProtocolError: the client already helped to release a sum of this round or a later one.
            StorageError: the record cannot be stored.
        """
        self.check(run, number)
        self._keep(run, replace(self.of(run), released=number))

    def _keep(self, run: str, progress: Progress) -> None:
        self._runs[run] = progress


class StoredMemory(Memory):
    """A client's memory in a file, which outlives the process; one process at a time may use it.

    Guarantees: a record is on the disk when the call returns. A crash leaves the old state or the new one. An older copy of the
    file in its place cannot be detected: a client that is restored from a backup must take a new identity.

    Args:
        path: path of the file, in a folder that exists; the file is created if it is missing.

    Raises:
        StorageError: the file is in use, is damaged, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        with _storing(path):
            self._lock = open(path.with_name(path.name + ".lock"), "ab")  # noqa: SIM115 (held as long as the memory)
        try:
            with _storing(path, "another process has it; let that one end"):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._runs = self._read()
        except StorageError:
            self.close()
            raise

    def close(self) -> None:
        """Release the file, so that another process may use it."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, run: str, progress: Progress) -> None:
        runs = {**self._runs, run: progress}
        with _storing(self._path):
            self._write({name: asdict(one) for name, one in runs.items()})
        super()._keep(run, progress)

    def _read(self) -> dict[str, Progress]:
        try:
            found = json.loads(self._path.read_bytes())
            assert found["format"] == _FORMAT
            return {str(name): Progress(*(int(one[key]) for key in asdict(Progress()))) for name, one in found["runs"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
            raise StorageError(
                f"{self._path}: is no memory of a client, or is damaged; restore it, or give the client a new identity"
            ) from None

    def _write(self, runs: dict[str, dict[str, int]]) -> None:
        """Write a new file and rename it to the old one's name; both steps are on the disk before the call returns."""
        beside = self._path.with_name(self._path.name + ".new")
        with open(beside, "wb") as file:
            file.write(json.dumps({"format": _FORMAT, "runs": runs}).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _storing(path: Path, why: str = "a client answers only after its memory is written; free disk space") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}: {why}") from None
