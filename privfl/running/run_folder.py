"""The run folder: what is in it, written so that a crash at any moment loses nothing, and read back typed.

::

    config.toml          the resolved configuration; it re-runs the run
    environment.json     versions, device and machine, and the version of this format
    membership.npz       owner_N, candidate_N, member_N: who had which example of the pool, and who was a member
    partition.json       clients, classes, and how many members of each class each client had
    rounds.jsonl         one RoundRecord a line; the same seed gives the same bytes
    timings.jsonl        one TimingRecord a line: seconds, which no seed repeats
    ledger.jsonl         in the first line the terms of ε, then every noise draw of every client, a line a round
    views/               what each adversary saw, a file a round
    transcripts/         all that clients sent under secure aggregation, a file for each attempt at a round
    state.safetensors    the point to resume from
    noise.key            the root of noise from the operating system, while the run goes on; removed at its end
    model.safetensors    the final model, as `load_state_dict` of the model takes it
    result.json          the figures of the run
    attacks/             what the attacks found
    figures/ report.html the page
    privacy_card.json    the page's privacy card, for machines
    .lock                keeps a second process out while one is at work

Every file but the three ``.jsonl`` is written beside its place and then moved into it. ``state.safetensors`` is written
last in a round: whatever lies beyond it is a round that did not finish, and is dropped on resume. The round is then
computed again from the same streams, so it releases the same values and costs no further privacy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, RunFolderError
from privfl.loading import dump, load
from privfl.records import Environment, PartitionRecord, Result, RoundRecord, TimingRecord
from privfl.shelves import SHELVES
from privfl.storage import append_line, npz, storing, write_atomic, write_json

if TYPE_CHECKING:
    # It would import SciPy, which a command that only looks into a folder need not wait for.
    from privfl.auditing.questions import Finding

FORMAT = 4

# What a crash leaves of a run folder that was not begun: its configuration is written last.
_BEGINNING = {".lock", "environment.json", "membership.npz", "partition.json", "config.toml", "noise.key"}
_LATER = {
    *("rounds.jsonl", "timings.jsonl", "ledger.jsonl", "views", "transcripts", "state.safetensors"),
    *("model.safetensors", "result.json", "attacks", "figures", "report.html", "privacy_card.json"),
}

Model = TypeVar("Model", bound=BaseModel)


Line = TypeVar("Line", RoundRecord, TimingRecord)


@dataclass(frozen=True)
class RunFolder:
    """A folder of one run."""

    path: Path

    def __post_init__(self) -> None:
        # A path may be given as text.
        object.__setattr__(self, "path", Path(self.path))

    @classmethod
    @contextmanager
    def reserving(cls, path: Path, overwrite: bool = False) -> Iterator[RunFolder]:
        """A folder for a new run, from which other processes are kept out; of a run that does not begin nothing is left.

        Args:
            path: where.
            overwrite: a run that is there may be replaced by :meth:`clear`.

        Raises:
            RunFolderError: there is something else at ``path`` already, or it cannot be written.
        """
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        folder = cls.reserve(path, overwrite)
        with folder.locked():
            try:
                yield folder
            finally:
                if not (path / "config.toml").exists():
                    folder._withdraw(made)

    def _withdraw(self, made: Iterable[Path]) -> None:
        """Remove what was written before the run began, and the folders ``made`` for it, the innermost first."""
        for entry in self.path.iterdir():
            entry.unlink()
        for folder in made:
            # Another run may have been put beside this one.
            with suppress(OSError):
                folder.rmdir()

    @classmethod
    def reserve(cls, path: Path, overwrite: bool = False) -> RunFolder:
        """A folder for a new run: an empty one, or one in which a run had barely begun when it crashed.

        Args:
            path: where.
            overwrite: a run may be there, with nothing beside it that no run writes.

        Raises:
            RunFolderError: there is something else at ``path`` already, or it cannot be written.
        """
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
            found = {entry.name.removesuffix(".partial") for entry in path.iterdir()}
        if (path / "config.toml").exists():
            if not overwrite:
                raise RunFolderError(
                    f"{path}: holds a run; go on with it by --resume, begin it anew with --overwrite, "
                    "or choose another folder with --out"
                )
            foreign = sorted(found - _BEGINNING - _LATER)
            if foreign:
                raise RunFolderError(
                    f"{path}: holds {foreign[0]!r}, which no run writes; move it away, or choose another folder with --out"
                )
        elif found - _BEGINNING:
            raise RunFolderError(f"{path}: is neither empty nor a run folder; choose another folder with --out")
        return cls(path)

    def clear(self) -> None:
        """Remove the run that is here, and keep its lock. ``config.toml`` goes last: until then it can be cleared again.

        Raises:
            RunFolderError, StorageError: as :func:`storing`.
        """
        with storing(self.path):
            for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == "config.toml"):
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != ".lock":
                    entry.unlink()

    def begin(
        self, config: ExperimentConfig, environment: Environment, who: Mapping[str, NDArray[Any]], partition: PartitionRecord
    ) -> None:
        """Write down what a run starts from. ``config.toml`` comes last: with it, the folder is a run folder.

        Args:
            config: the resolved configuration.
            environment: versions and machine.
            who: ``owner_N``, ``candidate_N`` and ``member_N``.
            partition: who has how much of which class.
        """
        self.write("environment.json", environment)
        write_atomic(self.path / "membership.npz", npz(who))
        self.write("partition.json", partition)
        write_atomic(self.path / "config.toml", dump(config).encode())

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run folder.

        Raises:
            RunFolderError: it is none, or was written in another version of this format.
        """
        path = Path(path)
        folder = cls(path)
        if not (path / "config.toml").is_file():
            raise RunFolderError(f"{path}: is not a run folder (no config.toml in it); give a folder that `privfl run` made")
        try:
            version = json.loads((path / "environment.json").read_text()).get("format")
        except (OSError, ValueError, AttributeError):
            version = None
        if version != FORMAT:
            raise RunFolderError(
                f"{path}: has format {version}; this privfl reads format {FORMAT}: "
                "run its config.toml again, or use the privfl that wrote it"
            )
        return folder

    @classmethod
    def of(cls, given: RunFolder | Path | str) -> RunFolder:
        """The folder itself, or the one that lies at a path.

        Raises:
            RunFolderError: as :meth:`open`.
        """
        return given if isinstance(given, RunFolder) else cls.open(given)

    def is_of(self, config: ExperimentConfig) -> bool:
        """Whether the run was begun with ``config``; not where its own cannot be read."""
        try:
            return self.config == config
        except ConfigError:
            return False

    def require_same(self, config: ExperimentConfig) -> None:
        """Raise unless ``config`` is the one that this folder was begun with.

        Raises:
            RunFolderError: names the first setting that differs.
        """
        for key, before, now in _differences(self.config.model_dump(), config.model_dump(), ""):
            way_out = "choose another --out, or begin it anew with --overwrite"
            if key.startswith("attacks."):
                way_out = f"then `privfl attack {self.path} {key}={now if isinstance(now, int) else '...'}` changes that"
            raise RunFolderError(
                f"{self.path}: was begun with {key} = {before!r}, not {now!r}; "
                f"resume with the settings in its config.toml, {way_out}"
            )

    def change_attacks(self, config: ExperimentConfig) -> None:
        """Make ``config`` that of the folder; it may differ in its attacks, which come after the training."""
        assert all(key.startswith("attacks.") for key, _, _ in _differences(self.config.model_dump(), config.model_dump(), ""))
        if config != self.config:
            write_atomic(self.path / "config.toml", dump(config).encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out of the folder. The lock goes with the process, however that ends.

        Raises:
            RunFolderError: another process is at work on the folder.
        """
        with storing(self.path):
            lock = FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise RunFolderError(
                    f"{self.path}: another process is at work on it; wait for it, or choose another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def require_same_place(self, here: Environment) -> None:
        """Raise unless device and versions are those that the run was begun with: others draw other noise.

        Raises:
            RunFolderError: names the first that differs.
        """
        for key, before, now in _differences(self.environment.model_dump(), here.model_dump(), ""):
            if key.startswith(("device", "packages.", "python")):
                raise RunFolderError(
                    f"{self.path}: was begun with {key} {before}, here it is {now}; "
                    "go on there, or begin it anew with --overwrite"
                )

    def require_same_data(self, digest: str) -> None:
        """Raise unless the data are those that the run was begun with.

        Raises:
            RunFolderError: they are not.
        """
        if self.partition.digest != digest:
            raise RunFolderError(
                f"{self.path}: the data here are not those that the run was begun with; "
                "run its config.toml anew, its data set's shuffling seeded, if it has any"
            )

    def require_same_constants(self, constants: str) -> None:
        """Raise unless the model holds, beside its weights, what that of the run held.

        Raises:
            RunFolderError: it does not.
        """
        if self.partition.constants != constants:
            raise RunFolderError(
                f"{self.path}: the model here has other constants (buffers, frozen weights, plain tensors) than the run's; "
                "bring back the files or the code that they came from, or run its config.toml anew"
            )

    @property
    def config(self) -> ExperimentConfig:
        """The resolved configuration."""
        return load(self.path / "config.toml")

    @property
    def environment(self) -> Environment:
        """Where the run was made."""
        return self._read("environment.json", Environment)

    @property
    def partition(self) -> PartitionRecord:
        """Who had how much of which class."""
        return self._read("partition.json", PartitionRecord)

    @property
    def result(self) -> Result:
        """The figures of the run.

        Raises:
            RunFolderError: the run has not finished.
        """
        return self._read("result.json", Result)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the attacks found, a finding for each adversary and question; none if nobody attacked.

        Raises:
            RunFolderError: the record is damaged, or of another version.
        """
        path = self.path / "attacks" / "summary.json"
        try:
            return tuple(_finding(one) for one in json.loads(path.read_bytes())["findings"])
        except FileNotFoundError:
            return ()
        except (ValueError, LookupError, TypeError, ConfigError):
            # A ValidationError is a ValueError.
            raise RunFolderError(
                f"{path}: is damaged or of another version; attack the run again: privfl attack {self.path}"
            ) from None

    def write_findings(self, findings: Iterable[Finding]) -> None:
        """Write what the attacks found, in place of what they found before."""
        write_json(self.path / "attacks" / "summary.json", {"findings": [one.model_dump() for one in findings]})

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, or to the end of its budget."""
        return (self.path / "result.json").is_file()

    def rounds(self) -> list[RoundRecord]:
        """The records of all finished rounds, in order."""
        return self._lines("rounds.jsonl", RoundRecord)

    def timings(self) -> list[TimingRecord]:
        """The seconds of all finished rounds, in order."""
        return self._lines("timings.jsonl", TimingRecord)

    def append(self, record: RoundRecord, timing: TimingRecord) -> None:
        """Add one round's records; on disk when this returns."""
        append_line(self.path / "rounds.jsonl", record)
        append_line(self.path / "timings.jsonl", timing)

    def rewind(self, rounds: int) -> None:
        """Drop the records of all rounds from number ``rounds`` on, and a half-written last line."""
        for name, lines_before in (("ledger.jsonl", 1), ("rounds.jsonl", 0), ("timings.jsonl", 0)):
            path = self.path / name
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            write_atomic(path, b"".join(lines[: lines_before + rounds]))

    def write(self, name: str, record: BaseModel) -> None:
        """Write one typed record as JSON."""
        write_json(self.path / name, record.model_dump())

    def _read(self, name: str, kind: type[Model]) -> Model:
        try:
            return kind.model_validate_json((self.path / name).read_bytes())
        except FileNotFoundError:
            raise RunFolderError(f"{self.path}: has no {name}: the run has not come that far; go on with --resume") from None
        except ValidationError as error:
            raise RunFolderError(
                f"{self.path / name}: is damaged ({error.errors()[0]['msg']}); run its config.toml again"
            ) from None

    def _lines(self, name: str, kind: type[Line]) -> list[Line]:
        path = self.path / name
        if not path.exists():
            return []
        try:
            records = [kind.model_validate_json(line) for line in path.read_bytes().splitlines()]
        except ValidationError as error:
            raise RunFolderError(f"{path}: is damaged ({error.errors()[0]['msg']}); mend it with --resume") from None
        if [record.round for record in records] != list(range(len(records))):
            raise RunFolderError(
                f"{path}: is damaged (a round is missing or twice there); run the config.toml of its folder anew"
            )
        return records


def _finding(record: Mapping[str, Any]) -> Finding:
    """A finding, of the type that its question gives it."""
    kind: type[Finding] = SHELVES["question"].find(record["question"]).finding
    # As JSON, in which a list stands for a tuple.
    return kind.model_validate_json(json.dumps(record))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], at: str) -> Iterator[tuple[str, object, object]]:
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{at}{key}.")
        elif old != new:
            yield at + key, old, new
