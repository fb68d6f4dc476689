"""Heart disease: patients of four hospitals, which are its natural clients (Janosi, Steinbrunn, Pfisterer & Detrano 1988, UCI).

The hospitals are the clients of Fed-Heart-Disease (FLamby, du Terrail 2022). FLamby drops the patients with missing values.
Unless its variant is chosen, they stay, and each missing value is marked.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from sklearn.model_selection import train_test_split

from privfl.data.datasets import About, Contents, File, FileDataset, Form, Source, Url
from privfl.data.datasets._arrays import Table, fixed_test, one_hot, standardised, verify_table
from privfl.data.federated import BoolArray, Examples, IntArray, LoadedData
from privfl.errors import DataError
from privfl.shelves import nearest
from privfl.tables import contradiction

_HOSPITALS = {"Cleveland": "cleveland", "Budapest": "hungarian", "Zurich and Basel": "switzerland", "Long Beach": "va"}
_SHA256 = "2359e15949a303e596d4416ad97dbc988819c215e6e100a454b94ce1d6a59616"
_NUMBERS = (0, 3, 4, 7, 9, 11)  # age, trestbps, chol, thalach, oldpeak, ca
_CATEGORIES = (1, 2, 5, 6, 8, 10, 12)  # sex, cp, fbs, restecg, exang, slope, thal
_NEVER_ZERO = (3, 4)  # two of the hospitals wrote an unknown blood pressure or cholesterol as 0
_COLUMNS = 14
_MOSTLY_MISSING = (10, 11, 12)  # slope, ca, thal, which FLamby leaves out
_HOT = (2, 6)  # cp, restecg, of which FLamby makes categories; sex, fbs and exang are 0 or 1
_ORIGINAL = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"


class HeartDisease(FileDataset):
    """x: six numbers, whether each is missing, then seven categories one-hot, shape (N, 31); y: 1 if disease was found, else 0.

    A missing number is replaced by the median of the training part, and its indicator is 1. A missing category becomes zeros.
    Numbers are then standardised with mean and standard deviation of the training part.

    Args:
        variant: ``imputed`` is described above. ``flamby`` has the patients, the split and the 13 features of
            Fed-Heart-Disease: slope, ca and thal are left out, then patients with a missing value. Chest pain and restecg are
            one-hot without their first value. Each hospital's features are standardised by its own training part.
            ``flamby_pooled`` differs in one point, as the authors' pooled baseline does: training patients are standardised by
            the training patients of all hospitals.
        hospitals: the hospitals whose patients train; all if none is named. The test split has those of all hospitals.
    """

    variant: Annotated[Literal["imputed", "flamby", "flamby_pooled"], Field(exclude_if=lambda name: name == "imputed")] = (
        "imputed"
    )
    hospitals: Annotated[tuple[str, ...], Field(strict=False, exclude_if=lambda names: not names)] = ()

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

    @field_validator("hospitals")
    @classmethod
    def _known(cls, hospitals: tuple[str, ...]) -> tuple[str, ...]:
        for name in hospitals:
            if name not in _HOSPITALS:
                raise contradiction("", name, nearest(name, [*_HOSPITALS]))
        return hospitals

    def check(self, loaded: LoadedData) -> LoadedData:
        """See :class:`Dataset`; only the whole imputed data have the stated numbers of examples."""
        return super().check(loaded) if not self.hospitals and self.variant == "imputed" else loaded

    def parse(self, contents: Contents) -> LoadedData:
        """Read the four tables, with or without a header row.

        Raises:
            DataError: the values differ from the published ones.
        """
        tables = [_table(file.name, contents[file.name]) for file in self.forms[0]]
        table = np.vstack(tables)
        verify_table("heart_disease", table, _SHA256)
        hospital_N = np.repeat(np.arange(len(tables)), [len(part) for part in tables])
        if self.variant == "imputed":
            x, y, hospital_N, test_N = _imputed(table, hospital_N)
        else:
            x, y, hospital_N, test_N = _flamby(table, hospital_N, pooled=self.variant == "flamby_pooled")
        names = [name for name in _HOSPITALS if not self.hospitals or name in self.hospitals]
        place_H = np.array([names.index(name) if name in names else -1 for name in _HOSPITALS])
        train_N = ~test_N & (place_H[hospital_N] >= 0)
        return LoadedData(
            train=Examples(x[train_N], y[train_N]),
            test=Examples(x[test_N], y[test_N]),
            classes=("healthy", "disease"),
            provenance=_PROVENANCE[self.variant.partition("_")[0]],
            natural_N=place_H[hospital_N[train_N]],
            natural_names=tuple(names),
            test_origin_T=hospital_N[test_N],
            test_origins=tuple(_HOSPITALS),
        )


_PROVENANCE = {
    "imputed": "UCI heart disease, four hospitals; the test split is a fixed fifth of each hospital and class. Medians "
    "for missing values, means and deviations are those of the training part, members and hold-out alike: "
    "no ε covers them.",
    "flamby": "UCI heart disease, four hospitals, with the patients, features and split of FLamby's Fed-Heart-Disease. "
    "Means and deviations are those of training parts, members and hold-out alike: no ε covers them.",
}

Parts = tuple[NDArray[np.float32], IntArray, IntArray, BoolArray]
"""Features, classes, hospital and whether a patient is in the test split, each of N patients."""


def _imputed(table: Table, hospital_N: IntArray) -> Parts:
    y = (table[:, -1] > 0).astype(np.int64)
    test_N = fixed_test("heart_disease", 2 * hospital_N + y)
    return _features(table, ~test_N).astype(np.float32), y, hospital_N, test_N


def _flamby(table: Table, hospital_N: IntArray, *, pooled: bool) -> Parts:
    """As owkin/FLamby, datasets/fed_heart_disease/dataset.py has them: 740 patients, 13 features."""
    kept = np.delete(table, _MOSTLY_MISSING, axis=1)
    whole_N = ~np.isnan(kept).any(axis=1)
    kept, hospital_N = kept[whole_N], hospital_N[whole_N]
    y = (kept[:, -1] > 0).astype(np.int64)
    numbers = np.delete(kept[:, :-1], _HOT, axis=1)
    x = np.hstack([numbers, *(one_hot(kept[:, column], kept[:, column])[:, 1:] for column in _HOT)])
    test_N, scaled = np.zeros(len(y), dtype=np.bool_), np.empty_like(x)
    for hospital in np.unique(hospital_N):
        rows = np.flatnonzero(hospital_N == hospital)
        train, test = _flamby_split(y[rows])
        test_N[rows[test]] = True
        scaled[rows] = _scaled(x[rows[train]], x[rows])
    if pooled:
        scaled[~test_N] = _scaled(x[~test_N], x[~test_N])
    return scaled.astype(np.float32), y, hospital_N, test_N


def _scaled(train_NF: Table, values_MF: Table) -> Table:
    """Columns with mean 0 and sample standard deviation 1, as PyTorch's ``std`` computes it; a constant one stays at 0."""
    scaled_MF: Table = (values_MF - train_NF.mean(axis=0)) / (train_NF.std(axis=0, ddof=1) + 1e-9)
    return scaled_MF


def _flamby_split(y: IntArray) -> tuple[IntArray, IntArray]:
    """Places of a hospital's training and test patients: two thirds, in the ratio of the classes if each has more than two."""
    counts = np.unique(y, return_counts=True)[1]
    stratify = y if len(counts) > 1 and counts.min() > 2 else None
    share = 0.66
    train, test = train_test_split(
        np.arange(len(y)), test_size=1.0 - share, train_size=share, random_state=43, shuffle=True, stratify=stratify
    )
    return train, test


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
