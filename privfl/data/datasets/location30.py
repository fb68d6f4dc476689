"""Location-30: places in Bangkok at which 5,010 people checked in, and each one's type of 30 (Shokri 2017, section VI-A)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from privfl.data.datasets import About, Contents, File, FileDataset, Form, Source, Url
from privfl.data.datasets._arrays import fixed_test
from privfl.data.datasets._store import Found, find_file
from privfl.data.federated import Examples, IntArray, LoadedData
from privfl.errors import DataError
from privfl.storage import read_npz

_FEATURES = 446
_ORDER = "location30_predictions/shuffle_index.npz"
_AUTHORS = "github.com/inspire-group/membership-inference-evaluation"
_MEMGUARD = {
    "memguard_target": (slice(0, 1000), slice(2000, 3000)),
    "memguard_shadow": (slice(3000, 3500), slice(4000, 4500)),
}
"""Members and others, as places of the shuffled table."""


class Location30(FileDataset):
    """x: 446 features, 0 or 1, shape (N, 446); y: the cluster of similar users that the person belongs to.

    Args:
        split: ``fifth`` sets a fixed fifth of each class aside as the test split. ``memguard_target`` and ``memguard_shadow``
            are the rows of the two models of MemGuard (Jia 2019) and of Song & Mittal (2021): the training part is the model's
            members, 1,000 or 500, and the test split as many others. They need the authors' ``shuffle_index.npz`` in
            ``$PRIVFL_DATA/location30_predictions/``.
    """

    split: Annotated[Literal["fifth", "memguard_target", "memguard_shadow"], Field(exclude_if=lambda name: name == "fifth")] = (
        "fifth"
    )

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

    def find(self) -> Found | None:
        """See :class:`FileDataset`; the shuffle index is needed too, if the split is the authors'."""
        found = super().find()
        return None if self.split != "fifth" and find_file(_ORDER) is None else found

    @property
    def remedy(self) -> str:
        """See :class:`FileDataset`."""
        if self.split == "fifth":
            return super().remedy
        return f"{super().remedy}; data.split = {self.split!r} needs {_ORDER}, of {_AUTHORS}, in $PRIVFL_DATA"

    def check(self, loaded: LoadedData) -> LoadedData:
        """See :class:`Dataset`; only the split into fifths has the stated numbers of examples."""
        return super().check(loaded) if self.split == "fifth" else loaded

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
        train, test, words = self._divided(y)
        return LoadedData(
            train=Examples(x[train], y[train]),
            test=Examples(x[test], y[test]),
            classes=tuple(f"type {number}" for number in range(1, 31)),
            provenance=f"Location-30 (Shokri 2017, from Foursquare check-ins in Bangkok); {words}.",
        )

    def _divided(self, y: IntArray) -> tuple[IntArray, IntArray, str]:
        """The rows of both parts, and how they were chosen.

        Raises:
            DataError: the shuffle index is missing, or is none.
        """
        if self.split == "fifth":
            test_N = fixed_test(self.name, y)
            words = "it has no test split of its own: a fixed fifth of each class is"
            return np.flatnonzero(~test_N), np.flatnonzero(test_N), words
        place = find_file(_ORDER)
        if place is None:
            raise DataError(f"{_ORDER}: is not on this machine: {self.remedy}")
        order = read_npz(place).get("x")
        if order is None or not np.array_equal(np.sort(order), np.arange(len(y))):
            raise DataError(f"{place}: must have an array 'x' with the numbers 0 to {len(y) - 1} in some order")
        train, test = _MEMGUARD[self.split]
        return order[train], order[test], f"the rows of MemGuard's {self.split.rpartition('_')[2]} model"
