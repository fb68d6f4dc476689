"""Heart disease: patients of four hospitals, which are its natural clients (Janosi, Steinbrunn, Pfisterer & Detrano 1988, UCI).

The hospitals are the clients of Fed-Heart-Disease (FLamby, du Terrail 2022). FLamby drops the patients with missing values;
here they stay, and each missing value is marked.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.data.datasets import About, Contents, File, FileDataset, Form, Source, Url
from privfl.data.datasets._arrays import Table, fixed_test, one_hot, standardised, verify_table
from privfl.data.federated import Examples, LoadedData
from privfl.errors import DataError

_HOSPITALS = {"Cleveland": "cleveland", "Budapest": "hungarian", "Zurich and Basel": "switzerland", "Long Beach": "va"}
_SHA256 = "2359e15949a303e596d4416ad97dbc988819c215e6e100a454b94ce1d6a59616"
_NUMBERS = (0, 3, 4, 7, 9, 11)  # age, trestbps, chol, thalach, oldpeak, ca
_CATEGORIES = (1, 2, 5, 6, 8, 10, 12)  # sex, cp, fbs, restecg, exang, slope, thal
_NEVER_ZERO = (3, 4)  # two of the hospitals wrote an unknown blood pressure or cholesterol as 0
_COLUMNS = 14
_ORIGINAL = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"


class HeartDisease(FileDataset):
    """x: six numbers, whether each is missing, then seven categories one-hot, shape (N, 31); y: 1 if disease was found, else 0.

    A missing number is replaced by the median of the training part, and its indicator is 1. A missing category becomes zeros.
    Numbers are then standardised with mean and standard deviation of the training part.
    """

    about: ClassVar[About] = About(
        title="heart disease at four hospitals, tabular",
        train=735,
        test=185,
        classes=2,
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/45",
    )
    forms: ClassVar[tuple[Form, ...]] = (tuple(File(f"processed.{name}.data") for name in _HOSPITALS.values()),)
    sources: ClassVar[tuple[Source, ...]] = (Url(39_000, tuple(f"{_ORIGINAL}{file.name}" for file in forms[0])),)

    def parse(self, contents: Contents) -> LoadedData:
        """Read the four tables, with or without a header row.

        Raises:
            DataError: the values differ from the published ones.
        """
        tables = [_table(file.name, contents[file.name]) for file in self.forms[0]]
        table = np.vstack(tables)
        verify_table("heart_disease", table, _SHA256)
        hospital_N = np.repeat(np.arange(len(tables)), [len(part) for part in tables])
        y = (table[:, -1] > 0).astype(np.int64)
        test_N = fixed_test(self.name, 2 * hospital_N + y)
        x = _features(table, ~test_N).astype(np.float32)
        return LoadedData(
            train=Examples(x[~test_N], y[~test_N]),
            test=Examples(x[test_N], y[test_N]),
            classes=("healthy", "disease"),
            provenance="UCI heart disease, four hospitals; the test split is a fixed fifth of each hospital and class. Medians "
            "for missing values, means and deviations are those of the training part, members and hold-out alike: "
            "no ε covers them.",
            natural_N=hospital_N[~test_N],
            natural_names=tuple(_HOSPITALS),
        )


def _table(name: str, content: bytes) -> Table:
    """The values of one hospital, shape (patients, 14); NaN for a missing value."""
    rows = [line.split(",") for line in content.decode().splitlines() if line and not line.startswith("age,")]
    if {len(row) for row in rows} != {_COLUMNS}:
        raise DataError(f"{name}: has a row that does not have {_COLUMNS} columns")
    try:
        return np.array([[np.nan if cell in ("", "?") else float(cell) for cell in row] for row in rows])
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None


def _features(table: Table, train_N: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Table:
    known = table.copy()
    known[:, _NEVER_ZERO] = np.where(known[:, _NEVER_ZERO] == 0, np.nan, known[:, _NEVER_ZERO])
    numbers, missing = known[:, _NUMBERS], np.isnan(known[:, _NUMBERS])
    filled = np.where(missing, np.nanmedian(numbers[train_N], axis=0), numbers)
    categories = [known[:, column] for column in _CATEGORIES]
    hot = [one_hot(column[train_N & ~np.isnan(column)], column) for column in categories]
    return np.hstack([standardised(filled[train_N], filled), missing.astype(np.float64), *hot])
