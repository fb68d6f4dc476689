"""Settings for the user's own files, guessed from the files themselves: a table, arrays or images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from privfl.data.datasets._columns import Columns, columns_of
from privfl.data.datasets._features import chosen_columns
from privfl.data.datasets._own_files import MOST_LEVELS, missing
from privfl.data.datasets.table import Table
from privfl.errors import DataError

KEY: Final = "--data"
_DELIMITERS, _TABLES = ",;\t|", (".csv", ".tsv", ".txt", ".parquet", ".pq")
_IMAGES, _LARGEST_SIDE = (".png", ".jpg", ".jpeg"), 64
_GREY = ("1", "L", "LA")


def kind_of(path: Path) -> str:
    """``table``, ``arrays`` or ``images``.

    Raises:
        DataError: the path does not exist, or is none of them.
    """
    place = path.expanduser()
    if place.is_dir():
        return "images"
    if not place.exists():
        raise missing(KEY, path, "file or folder")
    suffix = path.suffix.lower()
    if suffix not in (*_TABLES, ".npz"):
        allowed = f"a table ({', '.join(_TABLES)}), arrays (.npz) or a folder of images"
        raise DataError(f"{KEY} {path}: is none of what can be read: {allowed}; docs/data.md says how to read anything else")
    return "arrays" if suffix == ".npz" else "table"


def table(path: Path) -> Columns:
    """The columns of a table.

    Raises:
        DataError: the file cannot be read as a table.
    """
    return columns_of(KEY, path, _delimiter(path), Table.model_fields["missing_values"].default)


def table_settings(path: Path, columns: Columns, label: str, client: str | None) -> dict[str, Any]:
    """Settings of ``data.kind = "table"``; columns that look like a name or a number of each row are dropped.

    Raises:
        DataError: a column is missing.
    """
    columns.require("--label", [label])
    given = [label] if client is None else [label, client]
    columns.require("--client", given[1:])
    if label == client:
        raise DataError(f"--client {label}: is the label; name another column, or give --clients")
    settings: dict[str, Any] = {"kind": "table", "file": str(path), "label": label}
    if client is not None:
        settings["client"] = client
    if (delimiter := _delimiter(path)) != ",":
        settings["delimiter"] = delimiter
    if _is_number(columns, label):
        settings["target"] = "number"
    inputs = [name for name in columns.columns if name not in given]
    dropped = [name for name in inputs if not _is_input(columns, name)]
    if dropped:
        settings["drop"] = dropped
    if any(columns.columns[name].missing().any() for name in given):
        settings["missing"] = "drop"
    elif any(columns.columns[name].missing().any() for name in inputs if name not in dropped):
        settings["missing"] = "impute"
    return settings


def image_settings(folder: Path) -> dict[str, Any]:
    """Settings of ``data.kind = "images"``, from the layout of the folder and its first image.

    Raises:
        DataError: there is no image in it, or the first one cannot be read.
    """
    root = folder.expanduser()
    first = next((path for path in sorted(root.rglob("*")) if path.suffix.lower() in _IMAGES), None)
    if first is None:
        raise DataError(
            f"{KEY} {folder}: has no image ({', '.join(_IMAGES)}) in it; give a folder with a folder for each class"
        )
    try:
        with Image.open(first) as image:
            size, mode = max(image.size), image.mode
    except (UnidentifiedImageError, OSError):
        raise DataError(f"{first}: cannot be read as PNG or JPEG; remove or repair it") from None
    parted = {path.name for path in root.iterdir() if path.is_dir()} == {"train", "test"}
    depth = len(first.relative_to(root).parts) - 1 - parted
    settings = {"kind": "images", "folder": str(folder), "size": min(size, _LARGEST_SIDE)}
    return {**settings, "colour": "grey" if mode in _GREY else "rgb", "by_client": depth > 1}


def _delimiter(path: Path) -> str:
    """The most frequent of the usual delimiters in the first line; a comma if there is none."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt") or not path.expanduser().is_file():
        return ","
    with path.expanduser().open("rb") as file:
        first = file.readline().decode(errors="replace")
    return max(_DELIMITERS, key=first.count)


def _is_number(columns: Columns, label: str) -> bool:
    """Whether a label is a number to be predicted, and no class: it has fractions, or too many different values."""
    numbers = columns.columns[label].numbers
    if numbers is None:
        return False
    known_N = numbers[np.isfinite(numbers)]
    return bool((known_N != np.round(known_N)).any()) or len(np.unique(known_N)) > MOST_LEVELS


def _is_input(columns: Columns, name: str) -> bool:
    """Whether the loader takes the column without being told its kind."""
    try:
        chosen_columns(columns, (), (), [other for other in columns.columns if other != name])
    except DataError:
        return False
    return True
