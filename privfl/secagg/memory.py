"""What a client remembers from one attempt to the next: which it took part in, and of which rounds it helped to release a sum.

The same update in two sums over different clients gives away their difference, which may be one client's update. A client
therefore helps to release one sum of a round at most, and uses each attempt's number once. It takes attempts in ascending order
of round and attempt, so that three numbers a run are all that it has to remember.
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
    """How far a client came in one run: its last attempt, and the last round of which it helped to release a sum; −1: none."""

    round: int = -1
    attempt: int = -1
    released: int = -1


class Memory:
    """A client's memory in this process: for simulations and tests. A real client takes :class:`StoredMemory`."""

    def __init__(self) -> None:
        self._runs: dict[str, Progress] = {}

    def of(self, run: str) -> Progress:
        """How far the client came in a run."""
        return self._runs.get(run, Progress())

    def begin(self, run: str, number: int, attempt: int) -> None:
        """Take part in an attempt; kept before anything is sent.

        Raises:
            ProtocolError: it does not come after all that the client took part in, or a sum of the round was released.
            StorageError: it cannot be kept.
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
            ProtocolError: it did, of this round or a later one.
        """
        released = self.of(run).released
        if number <= released:
            raise ProtocolError(
                f"this client helped to release a sum of round {released} in another attempt, and a second one could tell "
                "updates apart; go on with the next round"
            )

    def release(self, run: str, number: int) -> None:
        """Help to release a sum of a round; kept before the answer that does it is made.

        Raises:
            ProtocolError: the client helped to release one already, of this round or a later one.
            StorageError: it cannot be kept.
        """
        self.check(run, number)
        self._keep(run, replace(self.of(run), released=number))

    def _keep(self, run: str, progress: Progress) -> None:
        self._runs[run] = progress


class StoredMemory(Memory):
    """A client's memory in a file, which outlives the process; one process at a time may have it.

    Guarantees: what was kept is on the disk when the call returns, and a crash leaves the old state or the new one. Nothing can
    tell that somebody put an older copy of the file in its place: a client that is restored from a backup takes a new identity.

    Args:
        path: of the file; made where there is none, in a folder that exists.

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
        """Let another process have it."""
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
        """Beside the file, and then in its place: both are on the disk before anything is said."""
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
def _storing(path: Path, why: str = "a client answers only after it was kept; free the disk") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}: {why}") from None
