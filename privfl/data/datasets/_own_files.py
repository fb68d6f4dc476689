"""Data sets in the user's own files: read and hash a file, draw a test part, number classes and clients."""

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
"""More distinct values than this are taken for names or notes, not for categories or classes, unless the user says so."""


def read(key: str, path: Path) -> tuple[bytes, FileRecord]:
    """A file's content, and a record of its name, size and SHA-256.

    Args:
        key: the setting that names the file, such as ``data.file``.
        path: its path; a relative one begins at the folder in which the program was started.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        content = path.expanduser().read_bytes()
    except FileNotFoundError:
        raise missing(key, path, "file") from None
    except IsADirectoryError:
        raise DataError(f"{key} = '{path}': is a folder; give a file") from None
    except OSError as error:
        raise DataError(
            f"{key} = '{path}': cannot be read ({error.strerror}); make it readable, or give another file"
        ) from None
    return content, FileRecord(name=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def missing(key: str, path: Path, noun: str) -> DataError:
    """The error for a path that does not exist; ``noun`` is ``file`` or ``folder``."""
    begins = "" if path.expanduser().is_absolute() else f" in {Path.cwd()}, the folder at which the path begins"
    return DataError(f"{key} = '{path}': there is no such {noun}{begins}; correct the path")


HALF = 0.5
"""Mean and standard deviation for all channels of the user's own images: fixed, so that they reveal nothing of the data."""


def are_classes(y: IntArray | FloatArray) -> bool:
    """Whether the labels are classes, one for each example: int64 of shape (N,)."""
    return y.dtype == np.int64 and y.ndim == 1


def split_in_words(share: float, seed: int) -> str:
    """Sentence part that says how the test part was drawn."""
    return f"{100 * share:g}% of its examples are the test part, drawn with split_seed {seed}"


def told(record: FileRecord) -> str:
    """A file's name, size and the beginning of its hash, for use in a sentence."""
    files = f"{record.files:,} files, " if record.files > 1 else ""
    return f"{record.name} ({files}{record.size:,} bytes, SHA-256 {record.sha256[:12]}…)"


@dataclass(frozen=True)
class Levels:
    """The distinct values of a column in order: by size if all are numbers, else alphabetically.

    1 and 1.0 are one value, since two sites often write the same code in these two ways.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, texts: NDArray[Any]) -> Levels:
        """The levels of an array of texts, in which None is a missing value."""
        names = sorted({_whole(text) for text in texts if text is not None})
        with contextlib.suppress(ValueError):
            names.sort(key=float)
        return cls(tuple(names))

    def index(self, texts: NDArray[Any]) -> IntArray:
        """The index of each text among the levels; -1 for a text that is missing or not among them."""
        places = {name: place for place, name in enumerate(self.names)}
        found = {text: places.get(_whole(text), -1) for text in set(texts.tolist()) if text is not None}
        return np.array([found.get(text, -1) for text in texts], dtype=np.int64)


def _whole(text: str) -> str:
    number = _WHOLE.fullmatch(text)
    return number[1] if number else text


def drawn_test(share: float, seed: int, count: int, *keys_N: IntArray) -> BoolArray:
    """Draw the test part: a mask of shape (N,) that selects a share of all examples, spread evenly over clients and classes.

    The draw depends on ``seed``, the number of examples, their order and the keys; it never depends on a run's seed or
    partition. The examples are put in a random order. The first example of each class and of each client in that order is kept
    for training. The others are sorted by the keys, ties in the random order, and the test part is taken from them at equal
    distances.

    Args:
        share: share of the examples, in (0, 1).
        seed: seed of the draw.
        count: number of examples, N.
        keys_N: the class of each example, and its client, if the data have any.

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
    """Check that there are at least two classes, and that the training part has each class of the test part.

    Args:
        place: the setting that the labels come from; an error message begins with it.
        names: the names of the classes.
        parts: the classes of the training part's examples, then of the test part's.

    Raises:
        DataError: one of the two is false; the message names the classes.
    """
    if len(names) < 2:
        raise DataError(f"{place}: has one class only, {', '.join(map(repr, names))}; there must be two or more")
    alone = sorted(set(parts[1].tolist()) - set(parts[0].tolist()))
    if alone:
        shown = ", ".join(repr(names[index]) for index in alone[:5])
        raise DataError(
            f"{place}: the test part has examples of class {shown}, and the training part has none; "
            "remove them, or add training examples of it"
        )
