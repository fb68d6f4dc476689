"""A small table of named columns, which every data-frame library reads without a copy being written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ConfigError
from privfl.storage import write_atomic

_SHOWN = 60
"""Rows that are printed of a long table; the others are counted."""


class Frame:
    """A table: columns of numbers or words, each a NumPy array.

    ``frame["accuracy"]`` is a column, ``len(frame)`` the number of rows. ``pandas.DataFrame.from_arrow(frame)``,
    ``polars.DataFrame(frame)`` and DuckDB read it by the Arrow C stream interface; :meth:`to_pandas` asks pandas itself. A
    number that is missing is NaN.

    Args:
        columns: name -> values, all of one length.
    """

    def __init__(self, columns: Mapping[str, Iterable[Any]]) -> None:
        self._columns = {name: _column(list(values)) for name, values in columns.items()}
        assert len({len(values) for values in self._columns.values()}) <= 1, "columns of one length"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(self._columns)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One column.

        Raises:
            KeyError: there is no such column; names those that there are.
        """
        if name not in self._columns:
            raise KeyError(f"no column {name!r}; the columns are {', '.join(self.columns)}")
        return self._columns[name]

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def rows(self) -> list[dict[str, Any]]:
        """Each row as a dictionary of plain Python values."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*(each.tolist() for each in self), strict=True)]

    def __iter__(self) -> Any:
        return iter(self._columns.values())

    def to_arrow(self) -> Any:
        """The same as a ``pyarrow.Table``, in which a NaN is null."""
        import pyarrow as pa

        return pa.table({name: pa.array(values, from_pandas=True) for name, values in self._columns.items()})

    def to_pandas(self) -> Any:
        """The same as a ``pandas.DataFrame``.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            return self.to_arrow().to_pandas()
        except ImportError:
            raise ConfigError("a pandas DataFrame needs the package pandas: pip install pandas, or use to_arrow()") from None

    def to_csv(self, path: Path | str) -> Path:
        """Write the table as comma-separated values, with a line of names.

        Raises:
            RunFolderError, StorageError: the file cannot be written.
        """
        import io

        from pyarrow import csv

        content = io.BytesIO()
        csv.write_csv(self.to_arrow(), content)
        write_atomic(Path(path), content.getvalue())
        return Path(path)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        texts = [[name, *map(_shown, values[:_SHOWN].tolist())] for name, values in self._columns.items()]
        widths = [max(map(len, column)) for column in texts]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in zip(*texts, strict=True)
        ]
        return "\n".join([*lines, *self._rest()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        cells = ["".join(f"<td>{escape(_shown(value))}</td>" for value in row.values()) for row in self.rows()[:_SHOWN]]
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        rest = "".join(f"<p>{escape(line)}</p>" for line in self._rest())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"

    def _rest(self) -> Sequence[str]:
        return [f"... and {len(self) - _SHOWN} more rows"] if len(self) > _SHOWN else []


def _column(values: list[Any]) -> NDArray[Any]:
    """Whole numbers, numbers, truth values or words; None is NaN among numbers, and an empty word among words."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there) and len(there) == len(values):
        return np.array(values, dtype=bool)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        whole = len(there) == len(values) and all(isinstance(value, int) for value in there)
        return np.array([math.nan if value is None else value for value in values], dtype=np.int64 if whole else np.float64)
    return np.array(["" if value is None else str(value) for value in values], dtype=object)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return str(value)
