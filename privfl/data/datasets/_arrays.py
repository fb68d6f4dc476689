"""Preparation of values that several loaders share: check them, standardise them, set a fixed test split aside."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from privfl.data.federated import BoolArray, IntArray
from privfl.errors import DataError
from privfl.seeding import Seed

TEST_SHARE = 0.2
"""The share set aside as a central test split if the publishers set none aside."""

Table = NDArray[np.float64]


def fixed_test(name: str, groups_N: IntArray) -> BoolArray:
    """Mask of the central test split, shape (N,): :data:`TEST_SHARE` of every group, rounded, at least one example.

    The split belongs to the data set: it depends on the data set's name, the groups and the examples' order, not on a run's
    seed or on the version of a library. Each example is given a 64-bit word of the output of SHAKE-256; those with the
    smallest words of each group are chosen.
    """
    order_N = np.frombuffer((Seed(0) / "test split" / name).key(8 * len(groups_N)), "<u8")
    test_N = np.zeros(len(groups_N), dtype=np.bool_)
    for group in np.unique(groups_N):
        members = np.flatnonzero(groups_N == group)
        count = max(1, round(TEST_SHARE * len(members)))
        test_N[members[np.argsort(order_N[members])[:count]]] = True
    return test_N


def standardised(train_NF: Table, values_MF: Table) -> Table:
    """Columns shifted and scaled so that the training part has mean 0 and standard deviation 1.

    A column that is constant in the training part is shifted and not scaled.
    """
    mean_F, std_F = train_NF.mean(axis=0), train_NF.std(axis=0)
    scaled_MF: Table = (values_MF - mean_F) / np.where(std_F > 0, std_F, 1.0)
    return scaled_MF


def one_hot(train_N: NDArray[np.generic], values_M: NDArray[np.generic]) -> Table:
    """One-hot columns, one for each value of the training part, sorted; a value that it lacks becomes a row of zeros."""
    values = np.unique(train_N)
    hot: Table = (values_M[:, None] == values).astype(np.float64)
    return hot


def verify_table(place: str, table_NF: Table, sha256: str) -> None:
    """Check the SHA-256 of a table's values as float64, so that their spelling in the file does not matter.

    All NaN values count as equal.

    Raises:
        DataError: the values differ.
    """
    same_nan = np.where(np.isnan(table_NF), np.nan, table_NF)
    found = hashlib.sha256(same_nan.astype("<f8").tobytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{place}: its values have sha256 {found[:16]}..., they must have {sha256[:16]}...")
