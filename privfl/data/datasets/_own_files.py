"""Files of the user's own: read and hashed, their test part drawn, their classes and clients numbered."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.data.federated import BoolArray, FloatArray, IntArray
from privfl.errors import DataError
from privfl.records import FileRecord
from privfl.seeding import Seed

_WHOLE = re.compile(r"([+-]?\d+)\.0*")

MOST_LEVELS = 100
"""More different texts than this are names or notes, and no category or class, unless the user says otherwise."""


def read(key: str, path: Path) -> tuple[bytes, FileRecord]:
    """A file's content, and its name, size and hash.

    Args:
        key: the setting that names it, such as ``data.file``.
        path: if it is not absolute it begins at the folder in which the program was started.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        content = path.expanduser().read_bytes()
    except FileNotFoundError:
        raise missing(key, path, "file") from None
    except IsADirectoryError:
        raise DataError(f"{key} = '{path}': is a folder; give a file") from None
    except OSError as error:
        raise DataError(f"{key} = '{path}': cannot be read ({error.strerror}); let the file be read, or give another") from None
    return content, FileRecord(name=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def missing(key: str, path: Path, noun: str) -> DataError:
    """The error for a path that leads nowhere."""
    begins = "" if path.expanduser().is_absolute() else f" in {Path.cwd()}, the folder that the path begins at"
    return DataError(f"{key} = '{path}': there is no such {noun}{begins}; mend the path")


HALF = 0.5
"""Mean and deviation of all channels of images of the user's own: fixed, so that they tell nothing of the data."""


def are_classes(y: IntArray | FloatArray) -> bool:
    """Whether labels are one class for each example."""
    return y.dtype == np.int64 and y.ndim == 1


def split_in_words(share: float, seed: int) -> str:
    """How the test part was drawn."""
    return f"{100 * share:g}% of its examples are the test part, drawn with split_seed {seed}"


def told(record: FileRecord) -> str:
    """A file in a sentence: name, size and the beginning of its hash."""
    files = f"{record.files:,} files, " if record.files > 1 else ""
    return f"{record.name} ({files}{record.size:,} bytes, SHA-256 {record.sha256[:12]}…)"


@dataclass(frozen=True)
class Levels:
    """The different values of a column in order: numbers by size, texts by their letters.

    A whole number is one value, whether it is written 1 or 1.0, since two places often write the same code in two ways.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, texts: NDArray[Any]) -> Levels:
        """Those of an array of texts, in which None is a missing value."""
        names = sorted({_whole(text) for text in texts if text is not None})
        with contextlib.suppress(ValueError):
            names.sort(key=float)
        return cls(tuple(names))

    def index(self, texts: NDArray[Any]) -> IntArray:
        """The place of each text among the levels; -1 for one that is missing, or not among them."""
        places = {name: place for place, name in enumerate(self.names)}
        found = {text: places.get(_whole(text), -1) for text in set(texts.tolist()) if text is not None}
        return np.array([found.get(text, -1) for text in texts], dtype=np.int64)


def _whole(text: str) -> str:
    number = _WHOLE.fullmatch(text)
    return number[1] if number else text


def drawn_test(share: float, seed: int, count: int, *keys_N: IntArray) -> BoolArray:
    """Which of ``count`` examples are the test part: a share of all, spread evenly over clients and classes.

    The draw depends on the seed, the examples' order and the keys; never on a run's seed or partition. The first example of
    each class and of each client in a random order is kept for training. The others are sorted by the keys and that order, and
    every k-th of them is taken.

    Args:
        share: in (0, 1).
        seed: names the draw.
        count: how many examples there are, N.
        keys_N: the class of each example and the client that it names, as far as there are any.

    Raises:
        DataError: too few examples are left for a test part of that share.
    """
    order = np.argsort(np.frombuffer((Seed(seed) / "test part").key(8 * count), "<u8"), kind="stable")
    first_N = np.zeros(count, dtype=np.bool_)
    for key_N in keys_N or (np.zeros(count, dtype=np.int64),):
        first_N[order[np.unique(key_N[order], return_index=True)[1]]] = True
    left, wanted = order[~first_N[order]], max(1, round(share * count))
    if wanted > len(left):
        raise DataError(
            f"data.test_share = {share:g}: is {wanted} of {count} examples, and {count - len(left)} are kept for training as "
            "the first of their class or client; lower it, give a test part of its own, or give more data"
        )
    left = left[np.lexsort([key_N[left] for key_N in keys_N])] if keys_N else left
    test_N = np.zeros(count, dtype=np.bool_)
    test_N[left[((np.arange(wanted) + 0.5) * len(left) / wanted).astype(np.int64)]] = True
    return test_N


def require_classes(place: str, names: Sequence[str], *parts: NDArray[Any]) -> None:
    """Raise unless there are two classes, and each of the test part's is in the training part too.

    Args:
        place: the setting that the labels come from, to begin an error with.
        names: the names of the classes.
        parts: the classes of the training part's and of the test part's examples.

    Raises:
        DataError: names the classes.
    """
    if len(names) < 2:
        raise DataError(f"{place}: has one class only, {', '.join(map(repr, names))}; there must be two or more")
    alone = sorted(set(parts[1].tolist()) - set(parts[0].tolist()))
    if alone:
        shown = ", ".join(repr(names[index]) for index in alone[:5])
        raise DataError(
            f"{place}: the test part has examples of class {shown}, and the training part has none; "
            "take them away, or give training examples of it"
        )
