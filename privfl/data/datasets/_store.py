"""Lookup of a data set's folder, and reading of files of known content: plain, gzipped, or inside an archive.

Content is hashed after decompression, so that one hash serves every source of the same data.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import platformdirs

from privfl.errors import DataError

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Args:
        name: its name, without ``.gz`` and without the archive's folders.
        size: its length in bytes after decompression; None if the loader checks the content itself.
        digest: ``sha256:...`` or ``md5:...`` of the content after decompression; None likewise.
    """

    name: str
    size: int | None = None
    digest: str | None = None

    def verify(self, content: bytes, place: Path) -> None:
        """Check length and digest.

        Raises:
            DataError: the content is shorter than ``size``, or its digest differs.
        """
        if self.size is not None and len(content) < self.size:
            raise DataError(f"{place}: {self.name} is truncated: {len(content):,} of {self.size:,} bytes")
        if self.digest is not None:
            kind, _, expected = self.digest.partition(":")
            found = hashlib.new(kind, content, usedforsecurity=kind != "md5").hexdigest()
            if found != expected:
                raise DataError(f"{place}: {self.name} has {kind} {found[:16]}..., it must have {expected[:16]}...")


Form = tuple[File, ...]
Contents = Mapping[str, bytes]


@dataclass(frozen=True)
class Found:
    """A folder that holds every file of one form of the data."""

    folder: Path
    form: Form

    def read(self) -> Contents:
        """Read and check every file of the form; name -> content.

        Raises:
            DataError: a file is truncated or damaged, or its digest differs.
        """
        wanted = {file.name: file for file in self.form}
        contents: dict[str, bytes] = {}
        for entry in _entries(self.folder):
            file = wanted.pop(entry.name, None)
            if file is not None:
                contents[file.name] = entry.content(file)
            if not wanted:
                break
        return contents


def cache_root() -> Path:
    """The cache: the folder of the data sets that were fetched."""
    return Path(platformdirs.user_cache_dir("privfl")) / "data"


def folders(name: str, system: Sequence[str] = ()) -> list[Path]:
    """The folders in which a data set is looked for, in order: ``$PRIVFL_DATA/name``, those of system packages, the cache."""
    given = os.environ.get("PRIVFL_DATA")
    own = [Path(given).expanduser() / name] if given else []
    return [*own, *(Path(place) for place in system), cache_root() / name]


def find_file(name: str) -> Path | None:
    """The file ``FOLDER/FILE`` in the folders in which data sets are looked for; None if it is missing."""
    folder, _, file = name.partition("/")
    return next((path for place in folders(folder) if (path := place / file).is_file()), None)


def find(places: Sequence[Path], forms: Sequence[Form]) -> Found | None:
    """The first folder that holds all files of one of the forms; None if there is none.

    Raises:
        DataError: an archive in one of the folders cannot be read.
    """
    for folder in places:
        names: set[str] = set()
        for entry in _entries(folder):
            names.add(entry.name)
            for form in forms:
                if names >= {file.name for file in form}:
                    return Found(folder, form)
    return None


@dataclass(frozen=True)
class _Entry:
    """A file or a member of an archive; it can be read only until the next entry is taken from the iterator."""

    name: str
    place: Path
    read: Callable[[int], bytes]

    def content(self, file: File) -> bytes:
        try:
            # One byte more than expected shows that the file is too long, without reading all of it.
            content = self.read(-1 if file.size is None else file.size + 1)
        except _UNREADABLE as error:
            raise _damaged(self.place, error) from None
        file.verify(content, self.place)
        return content


def _entries(folder: Path) -> Iterator[_Entry]:
    """All files in the folder and below it: plain and gzipped files first, then the members of archives."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    archives = [path for path in paths if path.name.endswith((*_TAR, ".zip"))]
    for path in paths:
        if path not in archives:
            zipped = path.suffix == ".gz"
            yield _Entry(path.stem if zipped else path.name, path, partial(_read_gzip if zipped else _read_plain, path))
    for path in archives:
        try:
            yield from _zip_members(path) if path.suffix == ".zip" else _tar_members(path)
        except _UNREADABLE as error:
            raise _damaged(path, error) from None


def _read_plain(path: Path, limit: int) -> bytes:
    with path.open("rb") as handle:
        return handle.read(limit)


def _read_gzip(path: Path, limit: int) -> bytes:
    with gzip.open(path) as handle:
        return handle.read(limit)


def _tar_members(path: Path) -> Iterator[_Entry]:
    with tarfile.open(path) as archive:
        for member in archive:
            handle = archive.extractfile(member)
            if handle is not None:
                yield _Entry(member.name.rpartition("/")[2], path, handle.read)


def _zip_members(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as handle:
                yield _Entry(name.rpartition("/")[2], path, handle.read)


def _damaged(path: Path, error: Exception) -> DataError:
    why = str(error).partition("\n")[0].rstrip(": ") or type(error).__name__
    return DataError(f"{path}: is truncated or damaged ({why})")
