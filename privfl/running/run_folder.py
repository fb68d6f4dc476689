"""The run folder: its files, written so that a crash at any moment loses nothing, and read as typed records.

::

    config.toml          the resolved configuration; it re-runs the run
    environment.json     versions, device and machine, and the version of this format
    membership.npz       owner_N, candidate_N, member_N: the owner of each example of the pool, and the members
    partition.json       clients, classes, and the number of members of each class at each client
    rounds.jsonl         one RoundRecord a line; the same seed gives the same bytes
    timings.jsonl        one TimingRecord a line: seconds, which no seed repeats
    ledger.jsonl         the terms of ε in the first line, then every noise draw of every client, a line a round
    views/               the views of the adversaries, a file a round
    transcripts/         all messages of clients under secure aggregation, a file for each attempt at a round
    state.safetensors    the point to resume from
    noise.key            the root of noise from the operating system; removed at the end of the run
    model.safetensors    the final model, as `load_state_dict` of the model takes it
    personal.safetensors the clients' own models at the end, one row each, if the algorithm has any
    result.json          the figures of the run
    attacks/             the findings of the attacks
    report.html          the page
    figures/ tables/     its figures and tables as files
    tensorboard/         its figures for TensorBoard, if the run is tracked there
    privacy_card.json    the page's privacy card, for machines
    .lock                locks the folder against a second process

Every file but the three ``.jsonl`` is written beside its place and then moved into it. ``state.safetensors`` is written last in
a round. Records beyond it belong to an unfinished round and are dropped on resume. The round is then computed again from the
same streams, so it releases the same values and costs no further privacy.
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
    # Importing it would load SciPy, which commands that only read a folder need not wait for.
    from privfl.auditing.questions import Finding

FORMAT = 4

# Files that a crash may leave before the run has begun. The configuration is written last.
_BEGINNING = {".lock", "environment.json", "membership.npz", "partition.json", "config.toml", "noise.key"}
_LATER = {
    *("rounds.jsonl", "timings.jsonl", "ledger.jsonl", "views", "transcripts", "state.safetensors"),
    *(
        "model.safetensors",
        "personal.safetensors",
        "result.json",
        "attacks",
        "figures",
        "tables",
        "report.html",
        "privacy_card.json",
        "tensorboard",
    ),
}

Model = TypeVar("Model", bound=BaseModel)


Line = TypeVar("Line", RoundRecord, TimingRecord)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    def __post_init__(self) -> None:
        # The path may be text.
        object.__setattr__(self, "path", Path(self.path))

    @classmethod
    @contextmanager
    def reserving(cls, path: Path, overwrite: bool = False) -> Iterator[RunFolder]:
        """Reserve a folder for a new run and lock it. If the run does not begin, nothing is left of it.

        Args:
            path: the folder.
            overwrite: whether an existing run may be replaced by :meth:`clear`.

        Raises:
            RunFolderError: something else exists at ``path``, or it cannot be written.
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
        """Remove files that were written before the run began, and the folders ``made`` for it, the innermost first."""
        for entry in self.path.iterdir():
            entry.unlink()
        for folder in made:
            # Another run may have been placed beside this one.
            with suppress(OSError):
                folder.rmdir()

    @classmethod
    def reserve(cls, path: Path, overwrite: bool = False) -> RunFolder:
        """Reserve a folder for a new run: an empty one, or one in which a run crashed before it began.

        Args:
            path: the folder.
            overwrite: whether it may hold a run, as long as it holds no other files.

        Raises:
            RunFolderError: something else exists at ``path``, or it cannot be written.
        """
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
            found = {entry.name.removesuffix(".partial") for entry in path.iterdir()}
        if (path / "config.toml").exists():
            if not overwrite:
                raise RunFolderError(
                    f"{path}: holds a run; continue it with --resume, replace it with --overwrite, "
                    "or choose another folder with --out"
                )
            foreign = sorted(found - _BEGINNING - _LATER)
            if foreign:
                raise RunFolderError(
                    f"{path}: holds {foreign[0]!r}, which no run has; move it away, or choose another folder with --out"
                )
        elif found - _BEGINNING:
            raise RunFolderError(f"{path}: is neither empty nor a run folder; choose another folder with --out")
        return cls(path)

    def clear(self) -> None:
        """Remove the run and keep its lock. ``config.toml`` is removed last, so that an interrupted removal can be repeated.

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
        """Write the starting point of a run. ``config.toml`` is written last: it makes the folder a run folder.

        Args:
            config: the resolved configuration.
            environment: versions and machine.
            who: ``owner_N``, ``candidate_N`` and ``member_N``.
            partition: the number of examples of each class at each client.
        """
        self.write("environment.json", environment)
        write_atomic(self.path / "membership.npz", npz(who))
        self.write("partition.json", partition)
        write_atomic(self.path / "config.toml", dump(config).encode())

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open an existing run folder.

        Raises:
            RunFolderError: the folder holds no run, or one of another version of this format.
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
        """The folder itself, or the folder at a path.

        Raises:
            RunFolderError: as :meth:`open`.
        """
        return given if isinstance(given, RunFolder) else cls.open(given)

    def has_config(self, config: ExperimentConfig) -> bool:
        """Whether the run was begun with ``config``; False if its own configuration cannot be read."""
        try:
            return self.config == config
        except ConfigError:
            return False

    def require_same(self, config: ExperimentConfig) -> None:
        """Raise unless the run was begun with ``config``.

        Raises:
            RunFolderError: names the first setting that differs.
        """
        for key, before, now in _differences(self.config.model_dump(), config.model_dump(), ""):
            way_out = "choose another --out, or replace it with --overwrite"
            if key.startswith("attacks."):
                way_out = f"then `privfl attack {self.path} {key}={now if isinstance(now, int) else '...'}` changes that"
            raise RunFolderError(
                f"{self.path}: was begun with {key} = {before!r}, not {now!r}; "
                f"resume with the settings in its config.toml, {way_out}"
            )

    def change_attacks(self, config: ExperimentConfig) -> None:
        """Replace the stored configuration by ``config``, which may differ only in its attacks. They come after training."""
        assert all(key.startswith("attacks.") for key, _, _ in _differences(self.config.model_dump(), config.model_dump(), ""))
        if config != self.config:
            write_atomic(self.path / "config.toml", dump(config).encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes. The lock ends with the process, even after a crash.

        Raises:
            RunFolderError: another process has locked the folder.
        """
        with storing(self.path):
            lock = FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise RunFolderError(
                    f"{self.path}: another process is using it; wait until it ends, or choose another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def require_same_environment(self, here: Environment) -> None:
        """Raise unless device and versions are those with which the run was begun. Others would draw other noise.

        Raises:
            RunFolderError: names the first that differs.
        """
        for key, before, now in _differences(self.environment.model_dump(), here.model_dump(), ""):
            if key.startswith(("device", "packages.", "python")):
                raise RunFolderError(
                    f"{self.path}: was begun with {key} {before}, and here it is {now}; "
                    "resume it there, or replace it with --overwrite"
                )

    def require_same_data(self, digest: str) -> None:
        """Raise unless the data are those with which the run was begun.

        Raises:
            RunFolderError: the data differ.
        """
        if self.partition.digest != digest:
            raise RunFolderError(
                f"{self.path}: the data differ from those that the run was begun with; "
                "restore them, or run its config.toml again (a data set that shuffles must use a fixed seed)"
            )

    def require_same_constants(self, constants: str) -> None:
        """Raise unless the model has the same values beside its weights as the run's model.

        Raises:
            RunFolderError: they differ.
        """
        if self.partition.constants != constants:
            raise RunFolderError(
                f"{self.path}: the constants of the model (buffers, frozen weights, plain tensors) differ from the run's; "
                "restore the files or the code that they came from, or run its config.toml again"
            )

    @property
    def config(self) -> ExperimentConfig:
        """The resolved configuration."""
        return load(self.path / "config.toml")

    @property
    def environment(self) -> Environment:
        """The machine and versions of the run."""
        return self._read("environment.json", Environment)

    @property
    def partition(self) -> PartitionRecord:
        """The number of examples of each class at each client."""
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
        """The findings of the attacks, one for each adversary and question; empty if the run was not attacked.

        Raises:
            RunFolderError: the record is damaged or of another version.
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
        """Write the findings of the attacks, replacing earlier ones."""
        write_json(self.path / "attacks" / "summary.json", {"findings": [one.model_dump() for one in findings]})

    @property
    def finished(self) -> bool:
        """Whether the run ended, by its number of rounds or early."""
        return (self.path / "result.json").is_file()

    def rounds(self) -> list[RoundRecord]:
        """The records of all finished rounds, in order."""
        return self._lines("rounds.jsonl", RoundRecord)

    def timings(self) -> list[TimingRecord]:
        """The timings of all finished rounds, in order."""
        return self._lines("timings.jsonl", TimingRecord)

    def append(self, record: RoundRecord, timing: TimingRecord) -> None:
        """Append one round's records. They are on disk when this returns."""
        append_line(self.path / "rounds.jsonl", record)
        append_line(self.path / "timings.jsonl", timing)

    def rewind(self, rounds: int) -> None:
        """Drop the records of all rounds from number ``rounds`` on, and an incomplete last line."""
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
            raise RunFolderError(
                f"{self.path}: has no {name}: the run has not come that far; continue it with --resume"
            ) from None
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
            raise RunFolderError(f"{path}: is damaged ({error.errors()[0]['msg']}); repair it with --resume") from None
        if [record.round for record in records] != list(range(len(records))):
            raise RunFolderError(
                f"{path}: is damaged (a round is missing or repeated); run the config.toml of its folder again"
            )
        return records


def _finding(record: Mapping[str, Any]) -> Finding:
    """A finding, with the type that belongs to its question."""
    kind: type[Finding] = SHELVES["question"].find(record["question"]).finding
    # JSON validation accepts a list for a tuple.
    return kind.model_validate_json(json.dumps(record))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], at: str) -> Iterator[tuple[str, object, object]]:
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{at}{key}.")
        elif old != new:
            yield at + key, old, new
