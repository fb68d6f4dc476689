"""Location-30: places in Bangkok at which 5,010 people checked in, and each one's type of 30 (Shokri 2017, section VI-A)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.data.datasets import About, Contents, File, FileDataset, Form, Source, Url
from privfl.data.datasets._arrays import fixed_test
from privfl.data.federated import Examples, LoadedData
from privfl.errors import DataError

_FEATURES = 446


class Location30(FileDataset):
    """x: 446 features, 0 or 1, shape (N, 446); y: the cluster of similar users that the person belongs to."""

    about: ClassVar[About] = About(
        title="check-ins in Bangkok, binary",
        train=4_007,
        test=1_003,
        classes=30,
        licence="not stated",
        homepage="https://github.com/privacytrustlab/datasets",
    )
    forms: ClassVar[tuple[Form, ...]] = (
        (File("bangkok", 4_492_469, "sha256:2ca8f7fc231251e089823e44d39f2d1eed124574cc351c7f80368cfe631dd718"),),
    )
    sources: ClassVar[tuple[Source, ...]] = (
        Url(287_293, ("https://raw.githubusercontent.com/privacytrustlab/datasets/master/dataset_location.tgz",)),
    )

    def parse(self, contents: Contents) -> LoadedData:
        """Read the table; each row holds the class, 1 to 30, in quotes, and the features.

        Raises:
            DataError: a value is no integer, or the number of columns is wrong.
        """
        try:
            text = contents["bangkok"].decode().replace('"', "")
            table = np.loadtxt(text.splitlines(), dtype=np.int64, delimiter=",", ndmin=2)
        except ValueError as error:
            raise DataError(f"bangkok: is not a table of integers ({error})") from None
        if table.shape[1] != 1 + _FEATURES:
            raise DataError(f"bangkok: has {table.shape[1]} columns; it must have {1 + _FEATURES}")
        x, y = table[:, 1:].astype(np.float32), table[:, 0] - 1
        test_N = fixed_test(self.name, y)
        return LoadedData(
            train=Examples(x[~test_N], y[~test_N]),
            test=Examples(x[test_N], y[test_N]),
            classes=tuple(f"type {number}" for number in range(1, 31)),
            provenance="Location-30 (Shokri 2017, from Foursquare check-ins in Bangkok); "
            "it has no test split of its own: a fixed fifth of each class is.",
        )
