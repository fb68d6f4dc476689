"""Clients that differ in how common a class is among their examples: a planted property."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.data.datasets import About, Dataset
from privfl.data.federated import Examples, LoadedData

CLIENTS = 40
OWNED = 40


class ClassShares(Dataset):
    """40 natural clients of 40 examples. Class 1 is four fifths of each even client's examples, a fifth of each odd one's."""

    about: ClassVar[About] = About(
        title="shares", train=1600, test=1000, classes=2, licence="none", homepage="https://example.org"
    )

    def read(self) -> LoadedData:
        """The same examples whatever the run's seed."""
        generator = np.random.default_rng(0)
        client_N = np.repeat(np.arange(CLIENTS), OWNED)
        common_N = np.where(client_N % 2, 0.2, 0.8)
        y = np.concatenate([generator.random(len(client_N)) < common_N, generator.random(1000) < 0.5]).astype(np.int64)
        x = (generator.normal(size=(len(y), 10)) + y[:, None]).astype(np.float32)
        names = tuple(f"c{client}" for client in range(CLIENTS))
        train, test = Examples(x[: len(client_N)], y[: len(client_N)]), Examples(x[len(client_N) :], y[len(client_N) :])
        return LoadedData(train, test, ("a", "b"), "Made up.", natural_N=client_N, natural_names=names)
