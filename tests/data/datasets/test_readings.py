"""A data set of somebody's own must give the same data at every reading, and is asked twice at the start."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from privfl.data import datasets
from privfl.data.datasets import About, Dataset
from privfl.data.datasets.digits import Digits
from privfl.data.federated import Examples, LoadedData
from privfl.errors import DataError

SHUFFLED = r"my_lab\.table: reads other data each time, .* give its shuffling a fixed seed \(random_state=0, or"


class Table(Dataset):
    """Forty rows in some order."""

    about: ClassVar[About] = About(title="made up", train=30, test=10, classes=2, licence="CC0", homepage="none")
    shuffle_seed: int | None = None
    natural: bool = False
    readings: ClassVar[list[int]] = []

    def read(self) -> LoadedData:
        """The rows, shuffled; or in one order, but for the clients that they name."""
        self.readings.append(1)
        generator = np.random.default_rng(self.shuffle_seed)
        order = np.arange(40) if self.natural else generator.permutation(40)
        x, y = order[:, None].astype(np.float32), order % 2
        train, test = Examples(x[:30], y[:30]), Examples(x[30:], y[30:])
        named = generator.integers(0, 2, 30) if self.natural else None
        return LoadedData(train, test, ("a", "b"), "made up.", named, ("Bern", "Oslo"))


@pytest.mark.parametrize("natural", [False, True])
def test_other_data_at_each_reading_are_refused_in_one_line(natural: bool) -> None:
    """Forty rows come in one order twice with a probability of 1e-48, thirty clients with 1e-9."""
    with pytest.raises(DataError, match=SHUFFLED) as caught:
        Table(kind="my_lab.table", natural=natural).load()
    assert "\n" not in str(caught.value)


def test_a_seeded_shuffle_is_read_twice_and_taken() -> None:
    Table.readings.clear()
    assert len(Table(kind="my_lab.table", shuffle_seed=0).load().train) == 30
    assert len(Table.readings) == 2


def test_what_is_not_soon_read_again_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the run's digest, at a resumption and in every process of an attack, is left for it."""
    monkeypatch.setattr(datasets, "_READ_TWICE", 100)
    Table.readings.clear()
    assert Table(kind="my_lab.table").load().nbytes > 100
    assert len(Table.readings) == 1


def test_the_shelfs_own_data_sets_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files are of known content."""
    readings, real = [0], Digits.read

    def counted(self: Digits) -> LoadedData:
        readings[0] += 1
        return real(self)

    monkeypatch.setattr(Digits, "read", counted)
    Digits(kind="digits", clients=2).load()
    assert readings == [1]
