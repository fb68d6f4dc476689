"""The user's own arrays: an npz file with x and y, and optionally clients and a test part."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from privfl.data.datasets import About, OwnFiles
from privfl.data.datasets._own_files import HALF, Levels, are_classes, drawn_test, read, require_classes, split_in_words, told
from privfl.data.federated import ByteArray, Examples, FloatArray, IntArray, LoadedData, Pixels
from privfl.errors import DataError, first_line
from privfl.shelves import nearest

_KNOWN = ("x", "y", "client", "classes", "test_x", "test_y")
_CHANNELS = (1, 3)


class Arrays(OwnFiles):
    """x: numbers as float32, unchanged, or images as bytes, (N, C, H, W); y: a class, a number, or several labels.

    Args:
        file: an npz file of ``x``, shape (N, ...), and ``y``, shape (N, ...). It may have ``client``, shape (N,), the number or
            name of each example's client; ``classes``, the names of classes or labels; and ``test_x`` and ``test_y``, the test
            part. A relative path begins at the folder in which the program is started.
    """

    file: Path

    about: ClassVar[About] = About(
        title="an npz file of your own", train=None, test=None, classes=None, licence="yours", homepage=""
    )
    example: ClassVar[str] = "file=FILE.npz"

    def read(self) -> LoadedData:
        """Read the file and set the test part aside.

        Raises:
            DataError: the file is missing or no npz file, or an array is missing, holds Python objects or has a wrong shape.
        """
        place = f"data.file = '{self.file}'"
        content, record = read("data.file", self.file)
        arrays = _opened(place, content)
        ys, classes = _labels(place, arrays)
        xs = [_inputs(place, arrays, name) for name in ("x", "test_x") if name in arrays]
        for name, x, y in zip(("", "test_"), xs, ys, strict=False):
            if len(x) != len(y):
                raise DataError(f"{place}: {name}x has {len(x):,} examples and {name}y {len(y):,} labels; give each one label")
        pixels = Pixels((HALF,) * xs[0].shape[1], (HALF,) * xs[0].shape[1]) if xs[0].dtype == np.uint8 else None
        clients = _clients(place, arrays, len(ys[0]))
        if len(xs) == 1:
            keys = [] if clients is None else [Levels.of(clients).index(clients)]
            keys += [ys[0].astype(np.int64)] if are_classes(ys[0]) else []
            test_N = drawn_test(self.test_share, self.split_seed, len(ys[0]), *keys)
            xs, ys = [xs[0][~test_N], xs[0][test_N]], [ys[0][~test_N], ys[0][test_N]]
            clients = None if clients is None else clients[~test_N]
        if are_classes(ys[0]):
            require_classes(f"{place}: y", classes, *ys)
        named = None if clients is None else Levels.of(clients)
        split = "the test part is its test_x" if "test_x" in arrays else split_in_words(self.test_share, self.split_seed)
        kind = "images, of which a byte b becomes (b / 255 - 0.5) / 0.5" if pixels else "numbers, taken as they are"
        return LoadedData(
            train=Examples(xs[0], ys[0]),
            test=Examples(xs[1], ys[1]),
            classes=classes,
            provenance=f"{told(record)}; {split}. Inputs are {kind}.",
            natural_N=None if named is None or clients is None else named.index(clients),
            natural_names=() if named is None else named.names,
            pixels=pixels,
            files=(record,),
        )


def _opened(place: str, content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of the file by name. Nothing is unpickled, since unpickling may run any code."""
    try:
        opened = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise DataError(f"{place}: is one array; save x and y together: np.savez(file, x=x, y=y)")
        with opened:
            arrays = {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        objects = "pickle" in str(error).lower() or "object" in str(error).lower()
        why = "it holds Python objects, which are not read" if objects else first_line(error)
        raise DataError(f"{place}: is no npz file of plain arrays ({why}); np.savez(file, x=x, y=y) writes one") from None
    for name in arrays:
        if name not in _KNOWN:
            raise DataError(f"{place}: has an array {name!r}; {nearest(name, _KNOWN)}")
    for name, other in (("x", "y"), ("y", "x"), ("test_x", "test_y"), ("test_y", "test_x")):
        if name not in arrays and (other in arrays or name == "x"):
            raise DataError(f"{place}: has no array {name!r}; it has {', '.join(arrays) or 'none'}: np.savez(file, x=x, y=y)")
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) == 0:
            raise DataError(f"{place}: {name} has shape {array.shape}; its first dimension must be one example or more")
    return arrays


def _inputs(place: str, arrays: dict[str, NDArray[Any]], name: str) -> FloatArray | ByteArray:
    """Inputs of the model: numbers as float32; bytes of three or four dimensions as images, (N, C, H, W)."""
    x = arrays[name]
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        x = x[:, None] if x.ndim == 3 else x
        if x.shape[1] not in _CHANNELS and x.shape[3] in _CHANNELS:
            x = x.transpose(0, 3, 1, 2)
        if x.shape[1] not in _CHANNELS:
            raise DataError(
                f"{place}: {name} holds bytes of shape {x.shape}; images must be (N, H, W), (N, C, H, W) or (N, H, W, C) "
                "with 1 or 3 channels; if they are numbers, x.astype(np.float32)"
            )
        return np.ascontiguousarray(x)
    if x.dtype.kind not in "biuf" or x.ndim < 2:
        raise DataError(f"{place}: {name} is {x.dtype} of shape {x.shape}; it must be numbers of shape (N, ...), N examples")
    with np.errstate(over="ignore"):
        numbers: FloatArray = np.ascontiguousarray(x, dtype=np.float32)
    bad_N = ~np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1)
    if bad_N.any():
        raise DataError(
            f"{place}: {name}[{int(np.flatnonzero(bad_N)[0])}] holds a value that is NaN or infinite as float32, and "
            f"{np.count_nonzero(bad_N) - 1:,} more examples do; drop or correct them"
        )
    return numbers


def _labels(place: str, arrays: dict[str, NDArray[Any]]) -> tuple[list[IntArray | FloatArray], tuple[str, ...]]:
    """The labels of the training part and, if the file has one, of the test part; and the names of the classes."""
    ys = [arrays[name] for name in ("y", "test_y") if name in arrays]
    given = tuple(str(name) for name in arrays["classes"].ravel()) if "classes" in arrays else ()
    if any(y.dtype.kind != ys[0].dtype.kind or y.shape[1:] != ys[0].shape[1:] for y in ys):
        raise DataError(
            f"{place}: y is {ys[0].dtype} of shape {ys[0].shape} and test_y {ys[1].dtype} of shape {ys[1].shape}; give "
            "both the same type and shape"
        )
    kind, dims = ys[0].dtype.kind, ys[0].ndim
    if kind == "f":
        return [y.astype(np.float32) for y in ys], given
    if kind not in "biuU" or (kind == "U" and dims > 1):
        raise DataError(
            f"{place}: y is {ys[0].dtype} of shape {ys[0].shape}; labels must be whole numbers, numbers, or text (N,)"
        )
    if kind == "U" or (dims == 1 and not given):
        levels = Levels.of(np.concatenate(ys).astype(str).astype(object))
        return [levels.index(y.astype(str).astype(object)) for y in ys], levels.names
    numbers: list[IntArray | FloatArray] = [y.astype(np.int64) for y in ys]
    least, most = (int(limit(np.concatenate([y.ravel() for y in numbers]))) for limit in (np.min, np.max))
    if dims == 2 and 0 <= least <= most <= 1:
        return numbers, given or tuple(f"label {column}" for column in range(ys[0].shape[1]))
    if given and dims == 1 and not 0 <= least <= most < len(given):
        raise DataError(
            f"{place}: y has labels from {least} to {most}, and classes {len(given)} names; give a name to each from 0"
        )
    return numbers, given or tuple(map(str, range(most + 1)))


def _clients(place: str, arrays: dict[str, NDArray[Any]], count: int) -> NDArray[Any] | None:
    """The name of each example's client; None if the file has none."""
    if "client" not in arrays:
        return None
    clients = arrays["client"]
    if clients.shape != (count,) or clients.dtype.kind not in "iuU":
        raise DataError(
            f"{place}: client is {clients.dtype} of shape {clients.shape}; it must be a whole number or a name for each of "
            f"{count:,} examples, shape ({count},)"
        )
    return clients.astype(str).astype(object)
