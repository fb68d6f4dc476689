"""Preparation of a table's columns as numbers: fitted to the training part, then applied to any rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privfl.data.datasets._columns import Column, Columns
from privfl.data.datasets._own_files import MOST_LEVELS, Levels
from privfl.errors import DataError
from privfl.records import ColumnRecord

Kind = Literal["number", "category"]

_MANY = 100
"""A column with more than this many rows, each with a different whole number, is taken for an identifier."""

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Chosen:
    """A column that is an input; ``inferred`` is true unless the user said which kind it is."""

    name: str
    kind: Kind
    inferred: bool


def chosen_columns(table: Columns, numbers: Sequence[str], categories: Sequence[str], others: Sequence[str]) -> list[Chosen]:
    """The columns that are inputs, in the file's order, each as a number or a category.

    A column that is in none of the three lists is a number if all of its values are numbers, else a category.

    Args:
        table: the training file, before rows are dropped.
        numbers: columns that are numbers.
        categories: columns that are categories.
        others: columns that are no inputs.

    Raises:
        DataError: a column in ``numbers`` holds text; a column in none of the lists has no value, looks like an identifier or
            has too many different texts for a category; or no column is left.
    """
    found = []
    for name, column in table.columns.items():
        if name in others:
            continue
        inferred = name not in numbers and name not in categories
        kind = _inferred(table.place, column) if inferred else "number" if name in numbers else "category"
        if kind == "number":
            require_numbers(table, "data.numbers", name)
        found.append(Chosen(name, kind, inferred))
    if not found:
        raise DataError(f"{table.place}: no column is left as an input; take some from data.drop, or give more columns")
    return found


def require_numbers(table: Columns, key: str, name: str) -> NDArray[np.float64]:
    """The values of a column that must hold numbers, with NaN for a missing value.

    Raises:
        DataError: a value is no number, or is infinite in float32; the message names the first one.
    """
    column = table.columns[name]
    values_N = column.numbers
    if values_N is None:
        row, text = column.first_text()
        raise DataError(
            f"{key} = {name!r}: row {row:,} of {table.record.name} has {_short(text)}, which is no number; "
            "name the column in data.categories, or the value in data.missing_values, or correct the file"
        )
    # Inputs are converted to float32 later, in which a larger number would be infinite.
    wide_N = np.abs(values_N) > np.finfo(np.float32).max
    if wide_N.any():
        row = int(np.flatnonzero(wide_N)[0])
        raise DataError(
            f"{key} = {name!r}: row {row + 1:,} of {table.record.name} has {column.text_N[row]!r}, which is too large; "
            "correct the file"
        )
    return values_N


def _inferred(place: str, column: Column) -> Kind:
    values_N = column.numbers
    texts = column.text_N[~column.missing()]
    if len(texts) == 0:
        raise DataError(f"{place}: its column {column.name!r} has no value at all; name it in data.drop")
    count = len(set(texts.tolist()))
    if values_N is None:
        if count > MOST_LEVELS:
            raise DataError(
                f"{place}: its column {column.name!r} has {count:,} different texts, such as {_short(texts[0])}; name it in "
                "data.drop, or in data.categories if it is a category"
            )
        return "category"
    known = values_N[~np.isnan(values_N)]
    if count == len(texts) > _MANY and bool((known == np.rint(known)).all()):
        raise DataError(
            f"{place}: its column {column.name!r} has a different whole number in each row, as an identifier has; name it in "
            "data.drop, or in data.numbers if it is a measurement"
        )
    return "number"


def fitted(chosen: Chosen, train: Column, *, incomplete: bool, standardise: bool, ranges: Ranges) -> ColumnRecord:
    """The rule by which a column becomes numbers, computed from the values of the training part.

    Args:
        chosen: the column and its kind.
        train: its values in the training part.
        incomplete: whether a value is missing in any row of the data.
        standardise: whether a number without a range is scaled to mean 0 and standard deviation 1.
        ranges: name -> range that is fixed beforehand and is mapped to [0, 1].

    Raises:
        DataError: the column has no value in the training part.
    """
    levels = Levels.of(train.text_N)
    if not levels.names:
        raise DataError(f"data.file: its column {chosen.name!r} has no value in the training part; name it in data.drop")
    if chosen.kind == "category":
        return ColumnRecord(name=chosen.name, kind="category", inferred=chosen.inferred, levels=list(levels.names))
    values_N = train.numbers
    assert values_N is not None
    fill = float(np.nanmedian(values_N)) if incomplete else None
    filled_N = values_N if fill is None else np.where(np.isnan(values_N), fill, values_N)
    shift, scale = 0.0, 1.0
    if chosen.name in ranges:
        low, high = ranges[chosen.name]
        shift, scale = low, high - low
    elif standardise:
        shift, scale = float(filled_N.mean()), float(filled_N.std()) or 1.0
    return ColumnRecord(
        name=chosen.name,
        kind="number",
        inferred=chosen.inferred,
        shift=shift,
        scale=scale,
        clipped=chosen.name in ranges,
        fill=fill,
    )


def applied(record: ColumnRecord, column: Column) -> NDArray[np.float64]:
    """The numbers that a column's N values become, shape (N, F); a level that the training part lacks becomes zeros."""
    if record.kind == "category":
        index_N = Levels(tuple(record.levels)).index(column.text_N)
        hot_NL: NDArray[np.float64] = (index_N[:, None] == np.arange(len(record.levels))).astype(np.float64)
        return hot_NL
    values_N = column.numbers
    assert values_N is not None
    missing_N = np.isnan(values_N)
    if record.fill is not None:
        values_N = np.where(missing_N, record.fill, values_N)
    scaled_N = (values_N - record.shift) / record.scale
    if record.clipped:
        scaled_N = scaled_N.clip(0, 1)
    return np.column_stack([scaled_N, missing_N]) if record.fill is not None else scaled_N[:, None]


def in_words(records: Sequence[ColumnRecord]) -> str:
    """Summary of the columns' preparation, in a few sentences."""
    numbers = [one for one in records if one.kind == "number"]
    categories = [one for one in records if one.kind == "category"]
    parts = []
    if numbers:
        parts.append(f"{_listed('number', 'numbers', numbers)}: {_scaling(numbers)}")
    if categories:
        levels = sum(len(one.levels) for one in categories)
        parts.append(f"{_listed('category', 'categories', categories)}: one-hot, {levels} levels, zeros for another or none")
    inferred = [one.name for one in records if one.inferred]
    said = f"Inputs are {'; and '.join(parts)}."
    if inferred:
        which = "all" if len(inferred) == len(records) else _few(inferred)
        said += f" Whether a column is a number or a category was inferred from its values for {which}."
    filled = [one.name for one in numbers if one.fill is not None]
    if filled:
        said += f" A missing number ({_few(filled)}) is the median, and an input of its own says so."
    statistics = [
        *(["means, deviations"] if any(not one.clipped and (one.shift, one.scale) != (0.0, 1.0) for one in numbers) else []),
        *(["medians"] if filled else []),
        *(["levels"] if categories else []),
    ]
    if statistics:
        shown = ", ".join(statistics[:-1]) + (" and " if len(statistics) > 1 else "") + statistics[-1]
        said += f" {shown[0].upper()}{shown[1:]} are those of the training part, members and hold-out alike: no ε covers them."
    return said


def _scaling(numbers: Sequence[ColumnRecord]) -> str:
    ranged = [one.name for one in numbers if one.clipped]
    rest = [one for one in numbers if not one.clipped]
    parts = [f"{_few(ranged)} in a fixed range, cut off there, as 0 to 1"] if ranged else []
    if rest:
        scaled = any((one.shift, one.scale) != (0.0, 1.0) for one in rest)
        parts.append(("the others " if ranged else "") + ("standardised" if scaled else "as they are"))
    return ", ".join(parts)


def _listed(one: str, several: str, records: Sequence[ColumnRecord]) -> str:
    return f"{len(records)} {one if len(records) == 1 else several} ({_few([record.name for record in records])})"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:11])} and {len(names) - 11} more"


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
