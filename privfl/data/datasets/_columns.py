"""A table in a CSV or Parquet file as columns of text, whatever types it was written in."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from privfl.data.datasets._own_files import read
from privfl.data.federated import BoolArray
from privfl.errors import DataError, first_line
from privfl.records import FileRecord
from privfl.shelves import nearest

_CSV, _PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")
_OTHER_DELIMITERS: Final = {";": "';'", "\t": "'\\t'", "|": "'|'", ",": "','"}


@dataclass(frozen=True)
class Column:
    """One column of N rows.

    Args:
        name: its name in the file's first row.
        text_N: its values as text without spaces around it; None for a missing value.
    """

    name: str
    text_N: NDArray[Any]

    def missing(self) -> BoolArray:
        """Mask of the rows that have no value, shape (N,)."""
        return np.array([text is None for text in self.text_N], dtype=np.bool_)

    @functools.cached_property
    def numbers(self) -> NDArray[np.float64] | None:
        """Its values as numbers, with NaN for a missing value; None if any text is no number."""
        try:
            return np.array([np.nan if text is None else _number(text) for text in self.text_N], dtype=np.float64)
        except ValueError:
            return None

    def first_text(self) -> tuple[int, str]:
        """The number of the first row whose value is no number, from 1, and that value."""
        for row, text in enumerate(self.text_N, start=1):
            try:
                _number(text or "0")
            except ValueError:
                return row, str(text)
        raise AssertionError(f"every value of {self.name} is a number")


def _number(text: str) -> float:
    if "_" in text:  # float() accepts 1_000, which is Python's notation and not that of data files.
        raise ValueError(text)
    return float(text)


@dataclass(frozen=True)
class Columns:
    """A table of N rows.

    Args:
        place: the setting and the file; an error message begins with it.
        record: the file's name, size and hash.
        columns: name -> column, in the file's order.
    """

    place: str
    record: FileRecord
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).text_N)

    def require(self, key: str, names: Sequence[str]) -> None:
        """Check that columns of these names exist.

        Raises:
            DataError: one does not; the message names the nearest column and the others.
        """
        for name in names:
            if name not in self.columns:
                raise DataError(f"{key}: {name!r} is no column of {self.record.name}; {nearest(name, list(self.columns))}")

    def rows(self, chosen_N: BoolArray) -> Columns:
        """The table with the chosen rows only."""
        columns = {name: Column(name, column.text_N[chosen_N]) for name, column in self.columns.items()}
        return Columns(self.place, self.record, columns)


def columns_of(key: str, path: Path, delimiter: str, missing_values: Sequence[str]) -> Columns:
    """Read a CSV or Parquet file.

    Args:
        key: the setting that names the file.
        path: its path, which ends in .csv, .tsv, .txt, .parquet or .pq.
        delimiter: the character between two values of a CSV file.
        missing_values: the texts that stand for a missing value.

    Raises:
        DataError: the file is missing, or is no table with a name for each column.
    """
    place = f"{key} = '{path}'"
    content, record = read(key, path)
    suffix = path.suffix.lower()
    if suffix not in (*_CSV, *_PARQUET):
        raise DataError(
            f"{place}: has no suffix of a table; allowed: {', '.join((*_CSV, *_PARQUET))}; rename or convert the file"
        )
    try:
        table = _csv(place, content, delimiter) if suffix in _CSV else pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        names = [name.strip() for name in table.column_names]
        _require_names(place, names)
        columns = {
            name: _column(place, name, values, missing_values) for name, values in zip(names, table.columns, strict=True)
        }
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{place}: cannot be read as a table ({first_line(error).rstrip('.')}); correct the file") from None
    if not columns or len(table) == 0:
        raise DataError(f"{place}: has no rows below its header; add at least one")
    return Columns(place, record, columns)


def _csv(place: str, content: bytes, delimiter: str) -> pyarrow.Table:
    """Read all values of a CSV file as text, so that no type is guessed from the first rows."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        first = content.split(b"\n", 1)[0].decode().rstrip("\r")
        content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is not UTF-8 (byte {error.start + 1:,}); save it as UTF-8") from None
    names = next(csv.reader(io.StringIO(first), delimiter=delimiter), [])
    other = [shown for mark, shown in _OTHER_DELIMITERS.items() if mark != delimiter and mark in first]
    if len(names) == 1 and other:
        raise DataError(f"{place}: has one column only, {names[0]!r}; set data.delimiter = {other[0]}")
    # PyArrow takes types by column name: of two columns with one name only the last would be read as text.
    _require_names(place, [name.strip() for name in names])
    return pyarrow.csv.read_csv(
        pyarrow.BufferReader(content),
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()), null_values=[]),
    )


def _require_names(place: str, names: Sequence[str]) -> None:
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{place}: its column {number} has no name; give each column one in the first row")
        if name in names[: number - 1]:
            raise DataError(f"{place}: has two columns named {name!r}; rename one of them")


def _column(place: str, name: str, values: pyarrow.ChunkedArray, missing_values: Sequence[str]) -> Column:
    try:
        text = pyarrow.compute.utf8_trim_whitespace(values.cast(pyarrow.string()))
    except pyarrow.ArrowException:
        raise DataError(
            f"{place}: its column {name!r} is of type {values.type}; columns must be text or numbers: "
            "write the file without that column"
        ) from None
    text_N = text.to_numpy(zero_copy_only=False) if isinstance(text, pyarrow.Array) else text.to_numpy()
    text_N = text_N.astype(object)
    missing = np.isin(text_N.astype(str), list(missing_values)) if len(text_N) else np.zeros(0, dtype=np.bool_)
    text_N[missing] = None
    return Column(name, text_N)
