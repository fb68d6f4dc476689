from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from privfl.data.datasets._store import File, Form, Found, find, folders
from privfl.errors import DataError

ONE, TWO = b"one, the first file\n", b"two, the second\n" * 100


def known(name: str, content: bytes) -> File:
    return File(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


FORM: Form = (known("one", ONE), known("two.csv", TWO))


def tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def lay(folder: Path, how: str) -> None:
    folder.mkdir(parents=True)
    match how:
        case "plain":
            (folder / "deep" / "er").mkdir(parents=True)
            (folder / "one").write_bytes(ONE)
            (folder / "deep" / "er" / "two.csv").write_bytes(TWO)
        case "gzip":
            (folder / "one.gz").write_bytes(gzip.compress(ONE))
            (folder / "two.csv.gz").write_bytes(gzip.compress(TWO))
        case "tar":
            tar(folder / "x.tar", {"a/one": ONE, "README": b"", "a/b/two.csv": TWO}, "w")
        case "tgz":
            tar(folder / "x.tgz", {"a/b/two.csv": TWO, "./one": ONE})
        case "zip":
            with zipfile.ZipFile(folder / "x.zip", "w") as archive:
                archive.writestr("a/one", ONE)
                archive.writestr("two.csv", TWO)
        case "mixed":
            (folder / "one").write_bytes(ONE)
            tar(folder / "x.tar.gz", {"two.csv": TWO})


@pytest.mark.parametrize("how", ["plain", "gzip", "tar", "tgz", "zip", "mixed"])
def test_one_check_serves_every_way_the_files_lie(tmp_path: Path, how: str) -> None:
    lay(tmp_path / "data", how)
    found = find([tmp_path / "nowhere", tmp_path / "data"], [FORM])
    assert found == Found(tmp_path / "data", FORM)
    assert found.read() == {"one": ONE, "two.csv": TWO}


def test_the_first_complete_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "one").write_bytes(ONE)
    lay(tmp_path / "first", "plain")
    lay(tmp_path / "second", "tgz")
    found = find([tmp_path / "half", tmp_path / "first", tmp_path / "second"], [FORM])
    assert found is not None
    assert found.folder == tmp_path / "first"
    assert find([tmp_path / "half"], [FORM]) is None


def test_another_form_is_found_where_the_first_is_not_there(tmp_path: Path) -> None:
    lay(tmp_path / "data", "plain")
    found = find([tmp_path / "data"], [(known("three", b""),), FORM])
    assert found is not None
    assert found.form == FORM


def test_own_folder_then_system_then_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVFL_DATA", "/own")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda app: f"/cache/{app}")
    places = [Path("/own/x"), Path("/usr/share/x"), Path("/cache/privfl/data/x")]
    assert folders("x", ("/usr/share/x",)) == places
    monkeypatch.delenv("PRIVFL_DATA")
    assert folders("x", ("/usr/share/x",)) == places[1:]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (ONE[:-1], "one is truncated: 19 of 20 bytes"),
        (ONE.replace(b"o", b"0"), "one has sha256 .*, it must have"),
        (ONE + b"x", "one has sha256 .*, it must have"),
    ],
)
def test_wrong_content_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "one").write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        Found(tmp_path, FORM[:1]).read()
    assert "\n" not in str(caught.value)


def test_md5_is_understood(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(ONE)
    good = File("one", digest=f"md5:{hashlib.md5(ONE, usedforsecurity=False).hexdigest()}")
    assert Found(tmp_path, (good,)).read() == {"one": ONE}
    with pytest.raises(DataError, match="md5"):
        Found(tmp_path, (File("one", digest="md5:" + "0" * 32),)).read()


@pytest.mark.parametrize("name", ["two.csv.gz", "x.tgz", "x.zip", "x.tar"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6])
def test_a_truncated_archive_is_one_line(tmp_path: Path, name: str, keep: float) -> None:
    how = {"two.csv.gz": "gzip", "x.tgz": "tgz", "x.zip": "zip", "x.tar": "tar"}[name]
    lay(tmp_path / "data", how)
    path = tmp_path / "data" / name
    content = path.read_bytes()
    if name == "x.tar":  # a tar ends in blocks of zeros that no one needs
        content = content[: content.index(TWO) + len(TWO)]
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=r"truncated|not on this machine") as caught:
        _read(tmp_path / "data")
    assert "\n" not in str(caught.value)


def _read(folder: Path) -> None:
    found = find([folder], [FORM])
    if found is None:
        raise DataError("not on this machine")
    found.read()


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "one.gz").write_bytes(gzip.compress(bytes(50_000_000)))
    read: list[int] = []

    class Counting(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            read.append(-1 if size is None else size)
            return super().read(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip, "open", lambda path: Counting(path))
        with pytest.raises(DataError, match="sha256"):
            Found(tmp_path, FORM[:1]).read()
    assert read == [len(ONE) + 1]
