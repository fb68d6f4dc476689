"""A folder of images of the user's own: how it may be laid out, what the pixels become, and one line for each mistake."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from privfl.data.datasets.images import Images
from privfl.data.federated import LoadedData
from privfl.data.input_store import InputStore
from privfl.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(12, 8, 8, 3)).astype(np.uint8)


def written(place: Path, pixels: NDArray[Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place)


def flat(folder: Path) -> Path:
    """Two classes of six images each."""
    for number, pixels in enumerate(PIXELS):
        written(folder / "scans" / ("well" if number % 2 else "sick") / f"{number:02}.png", pixels)
    return folder / "scans"


def loaded(folder: Path, **settings: Any) -> LoadedData:
    made = Images.model_validate({"kind": "images", "clients": 2, "folder": str(folder), "size": 8, **settings})
    return made.load()


def test_a_folder_for_each_class_is_read(tmp_path: Path) -> None:
    folder = flat(tmp_path)
    (folder / ".DS_Store").touch()
    (folder / "sick" / "Thumbs.db").touch()
    data = loaded(folder)
    assert data.classes == ("sick", "well")
    assert (len(data.train), len(data.test)) == (10, 2)
    for part in (data.train, data.test):
        for x, y in zip(part.x, part.y, strict=True):
            (number,) = np.flatnonzero((PIXELS.transpose(0, 3, 1, 2) == x).all(axis=(1, 2, 3)))
            assert y == number % 2
    some = InputStore.of(data.train, data.pixels, torch.device("cpu"))[::1].numpy()
    np.testing.assert_allclose(some, data.train.x / 127.5 - 1, atol=1e-6)


def test_what_was_read_is_recorded_as_sha256sum_lists_it(tmp_path: Path) -> None:
    folder = flat(tmp_path)
    data = loaded(folder)
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    listing = "".join(f"{hashlib.sha256((folder / path).read_bytes()).hexdigest()}  {path}\n" for path in paths)
    (record,) = data.files
    assert (record.name, record.files) == ("scans", 12)
    assert record.sha256 == hashlib.sha256(listing.encode()).hexdigest()
    assert record.size == sum((folder / path).stat().st_size for path in paths)
    assert data.provenance == (
        f"scans (12 files, {record.size:,} bytes, SHA-256 {record.sha256[:12]}…); 20% of its examples are the test part, drawn "
        "with split_seed 0. Images are RGB, resized to 8 by 8, and a byte b becomes (b / 255 - 0.5) / 0.5."
    )


def test_parts_clients_and_sizes_of_their_own(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 1)):
        for client in ("North", "South"):
            for label in ("sick", "well"):
                for number in range(count):
                    value = 200 if label == "sick" else 50
                    image = np.full((5 + number, 9), value, np.uint8)
                    written(tmp_path / "all" / part / client / label / f"{number}.{'jpg' if number else 'PNG'}", image)
    data = loaded(tmp_path / "all", by_client=True, colour="grey", size=6)
    assert (data.train.x.shape, data.test.x.shape) == ((16, 1, 6, 6), (4, 1, 6, 6))
    assert data.natural_names == ("North", "South")
    assert np.bincount(data.natural_N if data.natural_N is not None else []).tolist() == [8, 8]
    np.testing.assert_array_equal(data.train.x.mean(axis=(1, 2, 3)).round(), np.where(data.train.y == 0, 200, 50))
    assert "the test part is its folder test" in data.provenance
    assert "Images are grey" in data.provenance


def deep(place: Path) -> None:
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(place)


def truncated(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-60])


MISTAKES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "an empty class": (
        lambda scans: (scans / "odd").mkdir(),
        {},
        "odd: has no image of its class; add at least one, or remove the",
    ),
    "a note": (lambda scans: (scans / "sick" / "notes.txt").touch(), {}, "notes.txt: is no image; allowed: .png, .jpg, .jpeg"),
    "a stray file": (
        lambda scans: written(scans / "a.png", PIXELS[0]),
        {},
        "a.png: is a file among the folders of classes or clients",
    ),
    "unreadable": (
        lambda scans: (scans / "sick" / "00.png").write_bytes(b"GIF89a"),
        {},
        "00.png: cannot be read as PNG or JPEG",
    ),
    "truncated": (lambda scans: truncated(scans / "sick" / "00.png"), {}, "00.png: cannot be read as PNG or JPEG"),
    "deep": (lambda scans: deep(scans / "sick" / "00.png"), {}, "00.png: has more than 8 bits a pixel; save it with 8 bits"),
    "a level more": (
        lambda scans: written(scans / "sick" / "North" / "0.png", PIXELS[0]),
        {},
        "North: is a folder in that of a class; move it, or set data.by_client = true",
    ),
    "a level less": (
        lambda scans: None,
        {"by_client": True},
        "00.png: is a file among the folders of classes or clients",
    ),
    "train alone": (
        lambda scans: (scans / "train").mkdir(),
        {},
        "has a folder train, and sick, well; it must have train and test",
    ),
    "nowhere": (lambda scans: None, {"folder": "nowhere"}, "data.folder = 'nowhere': there is no such folder in "),
    "one class": (
        lambda scans: shutil.rmtree(scans / "well"),
        {},
        "has one class only, 'sick'; there must be two or more",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, tmp_path: Path) -> None:
    spoil, settings, words = MISTAKES[mistake]
    folder = flat(tmp_path)
    spoil(folder)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        loaded(**{"folder": folder, **settings})
    assert "\n" not in str(caught.value)


def test_a_class_of_the_test_folder_must_be_in_training(tmp_path: Path) -> None:
    for place in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"):
        written(tmp_path / place, PIXELS[0])
    with pytest.raises(DataError, match="the test part has examples of class 'c', and the training part has none"):
        loaded(tmp_path)
