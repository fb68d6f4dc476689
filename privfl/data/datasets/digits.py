"""Digits: handwritten digits of 8 by 8 pixels (Alpaydin & Kaynak 1998, UCI's test part), as scikit-learn contains them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.data.datasets import About, Dataset
from privfl.data.datasets._arrays import fixed_test, verify_table
from privfl.data.federated import Examples, LoadedData
from privfl.errors import DataError

_SHA256 = "30aa855cd90427ff3c4996b3f40109597c57049f8a038cc52db1efeac8ad2e26"


class Digits(Dataset):
    """x: pixel values 0 to 16 divided by 16, shape (N, 1, 8, 8); y: the digit."""

    about: ClassVar[About] = About(
        title="handwritten digits, 8x8 grey",
        train=1_438,
        test=359,
        classes=10,
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/80",
    )

    def read(self) -> LoadedData:
        """Read it from the installed scikit-learn.

        Raises:
            DataError: this version of scikit-learn contains other values.
        """
        # It takes most of a second to import, and the commands that read no data have to be quick.
        from sklearn.datasets import load_digits

        digits = load_digits()
        try:
            verify_table("scikit-learn's digits", np.column_stack((digits.data, digits.target)), _SHA256)
        except DataError as error:
            raise DataError(f"{error}: install another version of scikit-learn") from None
        x, y = (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
        test_N = fixed_test(self.name, y)
        return LoadedData(
            train=Examples(x[~test_N], y[~test_N]),
            test=Examples(x[test_N], y[test_N]),
            classes=tuple(str(digit) for digit in range(10)),
            provenance="UCI handwritten digits as scikit-learn embeds them; the test split is a fixed fifth of each class.",
        )
