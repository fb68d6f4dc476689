"""What several loaders do to values: check them, standardise them, set a fixed test split aside."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from privfl.data.federated import BoolArray, IntArray
from privfl.errors import DataError
from privfl.seeding import Seed

TEST_SHARE = 0.2
"""The share set aside as a central test split where the publishers set none aside."""

Table = NDArray[np.float64]


def fixed_test(name: str, groups_N: IntArray) -> BoolArray:
    """Which examples are the central test split: :data:`TEST_SHARE` of every group, rounded, at least one.

    The split belongs to the data set: it depends on its name and order alone, not on any run's seed, nor on the
    version of a library. Within a group, those are chosen that SHAKE-256 sorts first.
    """
    order_N = np.frombuffer((Seed(0) / "test split" / name).key(8 * len(groups_N)), "<u8")
    test_N = np.zeros(len(groups_N), dtype=np.bool_)
    for group in np.unique(groups_N):
        members = np.flatnonzero(groups_N == group)
        count = max(1, round(TEST_SHARE * len(members)))
        test_N[members[np.argsort(order_N[members])[:count]]] = True
    return test_N


def standardised(train_NF: Table, values_MF: Table) -> Table:
    """Columns shifted and scaled to mean 0 and standard deviation 1 over the training part; constant ones to 0."""
    mean_F, std_F = train_NF.mean(axis=0), train_NF.std(axis=0)
    scaled_MF: Table = (values_MF - mean_F) / np.where(std_F > 0, std_F, 1.0)
    return scaled_MF


def one_hot(train_N: NDArray[np.generic], values_M: NDArray[np.generic]) -> Table:
    """A column for each value that the training part has, sorted; a value that it lacks is a row of zeros."""
    values = np.unique(train_N)
    hot: Table = (values_M[:, None] == values).astype(np.float64)
    return hot


def verify_table(place: str, table_NF: Table, sha256: str) -> None:
    """Check the values of a table, whatever text they were written as; every NaN counts as the same.

    Raises:
        DataError: the values are others.
    """
    same_nan = np.where(np.isnan(table_NF), np.nan, table_NF)
    found = hashlib.sha256(same_nan.astype("<f8").tobytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{place}: its values have sha256 {found[:16]}..., they must have {sha256[:16]}...")
