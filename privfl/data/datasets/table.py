"""The user's own table: a CSV or Parquet file with a column for the label, and optionally one for the client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from privfl.config import ExperimentConfig
from privfl.data.datasets import About, OwnFiles
from privfl.data.datasets._columns import Columns, columns_of
from privfl.data.datasets._features import Chosen, applied, chosen_columns, fitted, in_words, require_numbers
from privfl.data.datasets._own_files import MOST_LEVELS, Levels, are_classes, drawn_test, require_classes, split_in_words, told
from privfl.data.federated import BoolArray, Examples, FloatArray, IntArray, LoadedData
from privfl.errors import DataError
from privfl.records import ColumnRecord
from privfl.shelves import nearest
from privfl.tables import contradiction


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_as_list)]
"""Names of columns; a single name may be given without brackets."""

Range = Annotated[tuple[float, float], Field(strict=False)]


class Table(OwnFiles):
    """x: numbers and one-hot categories in the order of the columns, shape (N, F); y: a class, a number, or one bit per label.

    Args:
        file: a CSV or Parquet file; a relative path begins at the folder in which the program is started.
        label: the column to be learned; several columns of 0 and 1 are several labels.
        target: whether the label is a ``class`` or a ``number``.
        client: the column that names the client of each row.
        numbers: columns that are numbers; a column in no list is a number if all its values are numbers, else a category.
        categories: columns that are categories.
        drop: columns that are no inputs.
        missing: a missing value makes the file refused (``refuse``), or its row dropped (``drop``), or it is replaced by the
            median (numbers) or zeros (categories) (``impute``).
        missing_values: the texts that stand for a missing value.
        scale: numbers are standardised by the training part's mean and standard deviation, or left unchanged.
        ranges: name -> range that is fixed beforehand and is mapped to [0, 1]; values outside are clipped.
        test_file: a table with the same columns for the test part; the client's column may be left out.
        delimiter: the character between two values of a CSV file.
    """

    file: Path
    label: Annotated[Names, Field(min_length=1)]
    target: Literal["class", "number"] = "class"
    client: str | None = None
    numbers: Names = ()
    categories: Names = ()
    drop: Names = ()
    missing: Literal["refuse", "drop", "impute"] = "refuse"
    missing_values: Names = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL")
    scale: Literal["standardise", "none"] = "standardise"
    ranges: dict[str, Range] = Field(default_factory=dict)
    test_file: Path | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","

    about: ClassVar[About] = About(
        title="a CSV or Parquet file of your own", train=None, test=None, classes=None, licence="yours", homepage=""
    )

    example: ClassVar[str] = "file=FILE.csv label=COLUMN"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys: dict[str, str] = {}
        for key in ("label", "client", "numbers", "categories", "drop"):
            for name in self._client if key == "client" else getattr(self, key):
                if name in keys:
                    twice = "twice" if keys[name] == key else f"in data.{keys[name]} too"
                    raise contradiction(key, name, f"is named {twice}; name each column once")
                keys[name] = key
        if self.partition.names_clients and self.client is None:
            raise contradiction("client", None, "must name the column of the clients if data.partition.kind is 'natural'")
        if self.target == "number" and len(self.label) > 1:
            raise contradiction("target", self.target, "is for one label; name one column in data.label, or set 'class'")
        for name, (low, high) in self.ranges.items():
            if not low < high:
                raise contradiction(f"ranges.{name}", [low, high], "must be a range [low, high], low below high")
        return self

    def check_settings(self, config: ExperimentConfig) -> None:
        """Check that the label suits the task.

        Raises:
            ConfigError: it does not.
        """
        if config.task.kind == "regression" and self.target != "number":
            raise contradiction("data.target", self.target, "must be 'number' for task = 'regression'")
        if config.task.kind == "multilabel" and len(self.label) == 1:
            raise contradiction("data.label", self.label[0], "must be a list of columns for task = 'multilabel'")

    def read(self) -> LoadedData:
        """Read the file or files, set the test part aside, and turn columns into numbers.

        Raises:
            DataError: a file is missing or no table; a column is missing, or differs from its settings; or a value is missing.
        """
        tables, chosen = self._tables()
        rows = sum(map(len, tables))
        tables = [self._complete(table, chosen) for table in tables]
        dropped = rows - sum(map(len, tables))
        targets, classes = self._targets(tables)
        clients = None if self.client is None else tables[0].columns[self.client].text_N
        if len(tables) == 1:
            train_N = ~self._drawn(targets[0], clients)
            clients = None if clients is None else clients[train_N]
            tables = [tables[0].rows(part_N) for part_N in (train_N, ~train_N)]
            targets = [targets[0][part_N] for part_N in (train_N, ~train_N)]
        if are_classes(targets[0]):
            require_classes(f"data.label = {self.label[0]!r}", classes, *targets)
        inputs, records = self._inputs(tables, chosen)
        named = None if clients is None else Levels.of(clients)
        return LoadedData(
            train=Examples(inputs[0], targets[0]),
            test=Examples(inputs[1], targets[1]),
            classes=classes,
            provenance=self._words(tables, records, dropped),
            natural_N=None if named is None or clients is None else named.index(clients),
            natural_names=() if named is None else named.names,
            files=tuple(dict.fromkeys(table.record for table in tables)),
            columns=tuple(records),
        )

    def _tables(self) -> tuple[list[Columns], list[Chosen]]:
        """The file, and the test file if there is one; and the columns that are inputs, checked against the settings."""
        whole = columns_of("data.file", self.file, self.delimiter, self.missing_values)
        self._require_columns(whole)
        chosen = chosen_columns(whole, self.numbers, self.categories, (*self.label, *self._client, *self.drop))
        if self.test_file is None:
            return [whole], chosen
        test = columns_of("data.test_file", self.test_file, self.delimiter, self.missing_values)
        test.require("data.test_file", [*self.label, *(one.name for one in chosen)])
        for one in chosen:
            if one.kind == "number":
                require_numbers(test, "data.test_file", one.name)
        return [whole, test], chosen

    @property
    def _client(self) -> tuple[str, ...]:
        return () if self.client is None else (self.client,)

    def _require_columns(self, whole: Columns) -> None:
        whole.require("data.label", self.label)
        whole.require("data.client", self._client)
        for key in ("numbers", "categories", "drop"):
            whole.require(f"data.{key}", getattr(self, key))
        whole.require("data.ranges", tuple(self.ranges))

    def _complete(self, table: Columns, chosen: Sequence[Chosen]) -> Columns:
        """The rows that have all required values.

        Raises:
            DataError: a required value is missing and ``missing`` is not ``drop``; or no row is left.
        """
        inputs = [one.name for one in chosen if self.missing != "impute"]
        client = [name for name in self._client if name in table.columns]
        missing = {name: table.columns[name].missing() for name in (*self.label, *client, *inputs)}
        some = {name: rows_N for name, rows_N in missing.items() if rows_N.any()}
        if not some:
            return table
        whole_N = ~np.logical_or.reduce(list(some.values()))
        if self.missing == "drop":
            if not whole_N.any():
                raise DataError(f"{table.place}: no row has all values; name the emptiest columns in data.drop")
            return table.rows(whole_N)
        name, rows_N = next(iter(some.items()))
        others = f" ({np.count_nonzero(~whole_N):,} rows with {', '.join(map(repr, some))})" if len(some) > 1 else ""
        way_out = "'drop' or 'impute'" if name in inputs else "'drop'; labels and clients are never imputed"
        raise DataError(
            f"{table.place}: {np.count_nonzero(rows_N):,} rows have no value in {name!r}{others}; set data.missing = {way_out}"
        )

    def _targets(self, tables: Sequence[Columns]) -> tuple[list[IntArray | FloatArray], tuple[str, ...]]:
        """The labels of each table, and the names of the classes, or of the labels if there are several."""
        name = self.label[0]
        if self.target == "number":
            return [require_numbers(table, "data.label", name).astype(np.float32) for table in tables], ()
        if len(self.label) > 1:
            return [np.column_stack([_bits(table, one) for one in self.label]) for table in tables], self.label
        levels = Levels.of(np.concatenate([table.columns[name].text_N for table in tables]))
        if len(levels.names) > MOST_LEVELS:
            numeric = tables[0].columns[name].numbers is not None
            way_out = "set data.target = 'number' and task = 'regression'" if numeric else "name another column"
            raise DataError(
                f"data.label = {name!r}: has {len(levels.names):,} different values, too many for classes; {way_out}"
            )
        return [levels.index(table.columns[name].text_N) for table in tables], levels.names

    def _drawn(self, y: IntArray | FloatArray, clients: NDArray[Any] | None) -> BoolArray:
        keys = [] if clients is None else [Levels.of(clients).index(clients)]
        if are_classes(y):
            keys.append(y.astype(np.int64))
        return drawn_test(self.test_share, self.split_seed, len(y), *keys)

    def _inputs(self, tables: Sequence[Columns], chosen: Sequence[Chosen]) -> tuple[list[FloatArray], list[ColumnRecord]]:
        """The inputs of each table, by rules that are computed from the first; and a record of each column's rule."""
        for name in self.ranges:
            if name not in (numbers := [one.name for one in chosen if one.kind == "number"]):
                raise DataError(f"data.ranges: {name!r} is no input that is a number; {nearest(name, numbers)}")
        records = [
            fitted(
                one,
                tables[0].columns[one.name],
                incomplete=any(bool(table.columns[one.name].missing().any()) for table in tables),
                standardise=self.scale == "standardise",
                ranges=self.ranges,
            )
            for one in chosen
        ]
        parts = [np.hstack([applied(record, table.columns[record.name]) for record in records]) for table in tables]
        return [part.astype(np.float32) for part in parts], records

    def _words(self, tables: Sequence[Columns], records: Sequence[ColumnRecord], dropped: int) -> str:
        target = f"{'labels' if len(self.label) > 1 else 'label'} {', '.join(self.label)}"
        if self.test_file is None:
            origin = f"{told(tables[0].record)}, {target}; {split_in_words(self.test_share, self.split_seed)}."
        else:
            origin = f"{told(tables[0].record)}, {target}; the test part is {told(tables[1].record)}."
        if dropped:
            origin += f" {dropped:,} rows with a missing value were dropped."
        return f"{origin} {in_words(records)}"


def _bits(table: Columns, name: str) -> IntArray:
    """The values of a label as 0 and 1; false and true are accepted too.

    Raises:
        DataError: it has another value.
    """
    levels = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
    bits = [levels.get(str(text).lower(), -1) for text in table.columns[name].text_N]
    if -1 in bits:
        found = table.columns[name].text_N[bits.index(-1)]
        raise DataError(f"data.label: {name!r} has {found!r}; each of several labels must be 0 or 1, or false or true")
    return np.array(bits, dtype=np.int64)
