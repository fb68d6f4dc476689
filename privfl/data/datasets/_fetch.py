"""``privfl data fetch`` and ``privfl data list``: the only part of the package that downloads."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from privfl.data.datasets import About, Dataset, FileDataset, OwnFiles
from privfl.data.datasets._store import Contents, cache_root, find
from privfl.errors import ConfigError, DataError, StorageError
from privfl.shelves import SHELVES


class Report(Protocol):
    """Who follows a fetch, for example with a progress bar."""

    def trying(self, source: str, size: int) -> None:
        """A source is being asked; about ``size`` bytes will come."""

    def progress(self, done: int, size: int) -> None:
        """So many of those bytes have come."""

    def refused(self, source: str, why: str) -> None:
        """The source did not give the data; the next one is tried."""


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Args:
        place: the folder that holds the data set now; None for data that come with a library.
        source: where it came from; None where it was there already and nothing was done.
    """

    place: Path | None
    source: str | None


@dataclass(frozen=True)
class Entry:
    """A line of the inventory.

    Args:
        name: the data set's name in a configuration.
        about: what is known of it.
        present: whether it can be loaded as it is.
        place: the folder that holds it; None if it is missing or comes with a library.
        sources: how it can be got, best first.
        own: whether it is in files of the user's own, which the settings of a run name.
    """

    name: str
    about: About
    present: bool
    place: Path | None
    sources: tuple[str, ...]
    own: bool = False


def dataset(kind: str) -> Dataset:
    """The data set of that name or dotted path, with default settings.

    Raises:
        DataError: there is none, or it is in files of the user's own, and has no default settings.
    """
    try:
        item = SHELVES["data"].find(kind)
    except ConfigError as error:
        raise DataError(f"data set {kind!r}: {error}") from None
    if issubclass(item, OwnFiles):
        raise DataError(
            f"{kind}: is read from files of your own, and there is nothing to fetch; `privfl data show {kind} {item.example}` "
            "shows yours"
        )
    made = item(kind=kind)
    assert isinstance(made, Dataset)
    return made


def inventory() -> list[Entry]:
    """Every data set of the shelf, present or not. Names are looked at, not contents.

    Raises:
        DataError: an archive that lies in a data set's folder cannot be read.
    """
    return [_entry(name) for name in SHELVES["data"].names()]


def _entry(name: str) -> Entry:
    cls = SHELVES["data"].find(name)
    if issubclass(cls, OwnFiles):
        return Entry(name, cls.about, present=False, place=None, sources=(f"privfl data show {name} {cls.example}",), own=True)
    item = dataset(name)
    if not isinstance(item, FileDataset):
        return Entry(item.name, item.about, present=True, place=None, sources=())
    found = item.find()
    labels = tuple(source.label for source in item.sources)
    return Entry(item.name, item.about, found is not None, found.folder if found else None, labels)


def fetch(kind: str, report: Report) -> Fetched:
    """Get a data set into the cache, from the first of its sources that gives it.

    What comes is checked by the data set's own loader before it is moved into place in one step; a fetch that fails or
    is interrupted leaves nothing behind.

    Raises:
        DataError: there is no such data set, or none of its sources gave it (each is listed with its reason).
        StorageError: the cache cannot be written.
    """
    item = dataset(kind)
    if not isinstance(item, FileDataset):
        return Fetched(None, None)
    present = _intact(item)
    if present is not None:
        return Fetched(present, None)
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_root()) as work:
            source, contents = _from_any(item, Path(work), report)
            return Fetched(_install(item.name, contents, Path(work)), source)
    except OSError as error:
        raise StorageError(f"{cache_root()}: cannot be written ({error}); free space, or make the folder writable") from None


def _intact(item: FileDataset) -> Path | None:
    """Where the data set lies, whole; None if it is missing, or damaged in the cache, where a fetch mends it."""
    found = item.find()
    if found is None:
        return None
    try:
        item.load()
    except DataError:
        if found.folder != cache_root() / item.name:
            raise
        return None
    return found.folder


def _from_any(item: FileDataset, work: Path, report: Report) -> tuple[str, Contents]:
    refusals = []
    for number, source in enumerate(item.sources):
        folder = work / str(number)
        folder.mkdir()
        report.trying(source.label, source.size)
        try:
            source.download(folder, report.progress)
            return source.label, _checked(item, folder)
        except DataError as error:
            why = str(error).replace(f"{folder}/", "")
            report.refused(source.label, why)
            refusals.append(f"{source.label}: {why}")
    reasons = "; ".join(refusals) or "it has no source"
    raise DataError(
        f"{item.name}: could not be fetched ({reasons}); "
        f"put the files from {item.about.homepage} into $PRIVFL_DATA/{item.name}/"
    )


def _checked(item: FileDataset, folder: Path) -> Contents:
    found = find([folder], item.forms)
    if found is None:
        names = " or ".join(", ".join(file.name for file in form) for form in item.forms)
        raise DataError(f"it did not hold {names}")
    contents = found.read()
    item.check(item.parse(contents))
    return contents


def _install(name: str, contents: Contents, work: Path) -> Path:
    """Write the files beside their place and move the folder there in one step."""
    fresh, place = work / "fresh", cache_root() / name
    fresh.mkdir()
    for file, content in contents.items():
        (fresh / file).write_bytes(content)
    if place.exists():
        place.rename(work / "old")
    fresh.rename(place)
    return place
