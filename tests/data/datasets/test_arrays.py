"""An npz file of the user's own: what its arrays become, and one line for each mistake."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privfl.data.datasets.arrays import Arrays
from privfl.data.federated import LoadedData, Pixels
from privfl.data.input_store import InputStore
from privfl.errors import DataError

X = np.arange(60, dtype=np.float64).reshape(20, 3) / 7
Y = np.arange(20) % 2
BYTES = np.random.default_rng(0).integers(256, size=(20, 3, 4, 5)).astype(np.uint8)


def saved(folder: Path, settings: dict[str, Any] | None = None, **arrays: Any) -> LoadedData:
    np.savez(folder / "own.npz", **{"x": X, "y": Y, **arrays})
    made = Arrays.model_validate({"kind": "arrays", "clients": 2, "file": str(folder / "own.npz"), **(settings or {})})
    return made.load()


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    data = saved(tmp_path, client=np.arange(20) // 5 * 10)
    content = (tmp_path / "own.npz").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    assert (len(data.train), len(data.test)) == (16, 4)
    rows = np.concatenate([data.train.x, data.test.x])
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], X.astype(np.float32))
    # A label and a client stay with their example.
    place_N = np.rint(data.train.x[:, 0] * 7 / 3).astype(int)
    np.testing.assert_array_equal(data.train.y, place_N % 2)
    np.testing.assert_array_equal(data.natural_N, place_N // 5)
    assert data.natural_names == ("0", "10", "20", "30")
    assert data.classes == ("0", "1")
    assert data.provenance == (
        f"own.npz ({len(content):,} bytes, SHA-256 {sha256[:12]}…); 20% of its examples are the test part, drawn with "
        "split_seed 0. Inputs are numbers, taken as they are."
    )
    assert data.files[0].sha256 == sha256


def test_a_test_part_of_its_own_is_taken_whole(tmp_path: Path) -> None:
    data = saved(tmp_path, test_x=X[:2], test_y=Y[:2])
    assert (len(data.train), len(data.test)) == (20, 2)
    np.testing.assert_array_equal(data.test.x, X[:2].astype(np.float32))


@pytest.mark.parametrize("shape", ["NCHW", "NHWC", "NHW"])
def test_bytes_are_images_wherever_their_channels_are(shape: str, tmp_path: Path) -> None:
    images = {"NCHW": BYTES, "NHWC": BYTES.transpose(0, 2, 3, 1), "NHW": BYTES[:, 0]}[shape]
    expected = BYTES[:, :1] if shape == "NHW" else BYTES
    data = saved(tmp_path, x=images, test_x=images, test_y=Y)
    np.testing.assert_array_equal(data.train.x, expected)
    channels = expected.shape[1]
    assert data.pixels == Pixels((0.5,) * channels, (0.5,) * channels)
    some = InputStore.of(data.train, data.pixels, torch.device("cpu"))[::1].numpy()
    np.testing.assert_allclose(some, expected / 127.5 - 1, atol=1e-6)


def test_labels_may_be_names_numbers_bits_or_tokens(tmp_path: Path) -> None:
    named = saved(tmp_path, y=np.array(["sick", "well"] * 10))
    assert named.classes == ("sick", "well")
    gaps = saved(tmp_path, y=np.array([3, 7] * 10))
    assert (gaps.classes, set(gaps.train.y.tolist())) == (("3", "7"), {0, 1})
    given = saved(tmp_path, y=Y + 1, classes=np.array(["none", "sick", "well"]))
    assert (given.classes, set(given.train.y.tolist())) == (("none", "sick", "well"), {1, 2})
    number = saved(tmp_path, y=Y / 3)
    assert number.classes == ()
    assert number.train.y.dtype == np.float32
    bits = saved(tmp_path, y=np.column_stack([Y, 1 - Y]))
    assert (bits.classes, bits.train.y.shape) == (("label 0", "label 1"), (16, 2))
    tokens = saved(tmp_path, y=np.column_stack([Y, Y + 3]))
    assert (tokens.classes, tokens.train.y.shape) == (("0", "1", "2", "3", "4"), (16, 2))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("pwned",)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "objects": ({"x": np.array([Evil()] * 20)}, "is no npz file of plain arrays (it holds Python objects, which are not read)"),
    "unknown": (
        {"clients": Y},
        "has an array 'clients'; did you mean 'client'? allowed: classes, client, test_x, test_y, x, y",
    ),
    "half a test": ({"test_x": X}, "has no array 'test_y'; it has x, y, test_x"),
    "lengths": ({"y": Y[:-1]}, "x has 20 examples and y 19 labels; give each one label"),
    "test lengths": ({"test_x": X[:3], "test_y": Y[:2]}, "test_x has 3 examples and test_y 2 labels"),
    "shapes": ({"test_x": X[:2, :2], "test_y": Y[:2]}, "x is (3,) in the training part and (2,) in the test part"),
    "NaN": ({"x": np.where(X[7, 1] == X, np.nan, X)}, "x[7] holds a value that is NaN or infinite as float32, and 0 more"),
    "infinite": ({"x": X * 1e40}, "x[0] holds a value that is NaN or infinite"),
    "NaN label": ({"y": Y * np.nan}, "has a label that is NaN or infinite"),
    "flat": ({"x": X[:, 0]}, "x is float64 of shape (20,); it must be numbers of shape (N, ...)"),
    "text": ({"x": np.full((20, 2), "a")}, "x is <U1 of shape (20, 2); it must be numbers"),
    "no image": ({"x": BYTES.transpose(0, 2, 1, 3)}, "x holds bytes of shape (20, 4, 3, 5); images must be (N, H, W)"),
    "labels": ({"y": Y * 1j}, "y is complex128 of shape (20,); labels must be whole numbers, numbers, or text (N,)"),
    "column": ({"y": Y[:, None] / 2}, "labels must be of shape (N,): y[:, 0]"),
    "one class": ({"y": Y * 0}, "y: has one class only, '0'"),
    "types": ({"test_x": X[:2], "test_y": Y[:2] / 1}, "y is int64 of shape (20,) and test_y float64 of shape (2,); give both"),
    "test class": (
        {"test_x": X[:2], "test_y": Y[:2] + 1},
        "the test part has examples of class '2', and the training part has none",
    ),
    "names": ({"classes": np.array(["a"])}, "y has labels from 0 to 1, and classes 1 names; give a name to each from 0"),
    "client": (
        {"client": Y / 2},
        "client is float64 of shape (20,); it must be a whole number or a name for each of 20 examples",
    ),
    "clients": ({"client": Y[:3]}, "client is int64 of shape (3,)"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "x has shape (0, 3); its first dimension must be one example or more"),
    "bytes and numbers": (
        {"x": BYTES, "test_x": BYTES[:2] / 255, "test_y": Y[:2]},
        "the test part has x of float32; it must be",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, words = MISTAKES[mistake]
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        saved(tmp_path, **arrays)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == "", "nothing was unpickled"


def one_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, X)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"),
        (b"", "is no npz file of plain arrays"),
        (b"x,y\n1,2\n", "is no npz file of plain arrays"),
        (b"PK\x03\x04 and no more", "is no npz file of plain arrays"),
        (one_array(), "is one array; save x and y together: np.savez(file, x=x, y=y)"),
    ],
)
def test_what_is_no_npz_file_is_one_line(content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "own.npz").write_bytes(content)
    made = Arrays.model_validate({"kind": "arrays", "clients": 2, "file": str(tmp_path / "own.npz")})
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        made.load()
    assert "\n" not in str(caught.value)
