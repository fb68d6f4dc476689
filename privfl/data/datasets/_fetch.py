"""Download of data sets: ``privfl data fetch`` and ``privfl data list``. No other part of the package downloads."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from privfl.data.datasets import About, Dataset, FileDataset, MadeUp, OwnFiles
from privfl.data.datasets._store import Contents, cache_root, find
from privfl.errors import ConfigError, DataError, StorageError
from privfl.shelves import SHELVES


class Report(Protocol):
    """Observer of a fetch, for example a progress bar."""

    def trying(self, source: str, size: int) -> None:
        """Called before a source is tried; about ``size`` bytes are expected."""

    def progress(self, done: int, size: int) -> None:
        """Called during the download: ``done`` of about ``size`` bytes have arrived."""

    def refused(self, source: str, why: str) -> None:
        """Called if the source did not give the data; the next one is tried."""


@dataclass(frozen=True)
class Fetched:
    """Result of a fetch.

    Args:
        place: the folder that now holds the data set; None for data without files.
        source: the source that gave it; None if it was present already and nothing was downloaded.
    """

    place: Path | None
    source: str | None


@dataclass(frozen=True)
class Entry:
    """One data set in the inventory.

    Args:
        name: its name in a configuration.
        about: its description.
        present: whether its files are on this machine, or come with a library.
        place: the folder that holds it; None if it is missing, comes with a library or is drawn.
        sources: its sources, in the order in which a fetch tries them; or a word for data that are drawn.
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
        DataError: there is none, or it is read from the user's own files and has no default settings.
    """
    item = _found(kind)
    if issubclass(item, OwnFiles):
        raise DataError(
            f"{kind}: is read from files of your own, and there is nothing to fetch; `privfl data show {kind} {item.example}` "
            "shows yours"
        )
    return item(kind=kind)


def _found(kind: str) -> type[Dataset]:
    try:
        item: type[Dataset] = SHELVES["data"].find(kind)
    except ConfigError as error:
        raise DataError(f"data set {kind!r}: {error}") from None
    return item


def inventory() -> list[Entry]:
    """All data sets of the shelf, present or not. Only names of files are checked, not contents.

    Raises:
        DataError: an archive in a data set's folder cannot be read.
    """
    return [entry(name) for name in SHELVES["data"].names()]


def entry(name: str) -> Entry:
    """The data set of that name or dotted path in the inventory.

    Raises:
        DataError: there is none, or an archive in its folder cannot be read.
    """
    cls = _found(name)
    if issubclass(cls, OwnFiles):
        return Entry(name, cls.about, present=False, place=None, sources=(f"privfl data show {name} {cls.example}",), own=True)
    item = dataset(name)
    if not isinstance(item, FileDataset):
        drawn = ("drawn by a rule",) if isinstance(item, MadeUp) else ()
        return Entry(item.name, item.about, present=True, place=None, sources=drawn)
    found = item.find()
    labels = tuple(source.label for source in item.sources)
    return Entry(item.name, item.about, found is not None, found.folder if found else None, labels)


def fetch(kind: str, report: Report) -> Fetched:
    """Download a data set into the cache, from the first of its sources that gives it.

    The data set's own loader checks the files before they are moved into the cache in one step. A fetch that fails or is
    interrupted leaves nothing behind.

    Raises:
        DataError: there is no such data set, or none of its sources gave it (the message gives the reason for each).
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
    """The folder that holds the intact data set; None if it is missing, or damaged in the cache, which a fetch repairs.

    Raises:
        DataError: it is damaged in a folder of the user's own or of a system package, which a fetch does not touch.
    """
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
    reasons = "; ".join(refusals) or "it has no sources"
    raise DataError(
        f"{item.name}: could not be fetched ({reasons}); "
        f"put the files from {item.about.homepage} into $PRIVFL_DATA/{item.name}/"
    )


def _checked(item: FileDataset, folder: Path) -> Contents:
    found = find([folder], item.forms)
    if found is None:
        names = " or ".join(", ".join(file.name for file in form) for form in item.forms)
        raise DataError(f"it does not contain {names}")
    contents = found.read()
    item.check(item.parse(contents))
    return contents


def _install(name: str, contents: Contents, work: Path) -> Path:
    """Write the files to a temporary folder, then rename it to its place in the cache in one step."""
    fresh, place = work / "fresh", cache_root() / name
    fresh.mkdir()
    for file, content in contents.items():
        (fresh / file).write_bytes(content)
    if place.exists():
        place.rename(work / "old")
    fresh.rename(place)
    return place
