"""Inputs without structure and labels by the throw of a coin: nothing can be learned, all can be memorised."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.data.datasets import About, Dataset
from privfl.data.federated import Examples, LoadedData


class RandomLabels(Dataset):
    """800 examples of 40 normal numbers each, in two classes."""

    about: ClassVar[About] = About(
        title="coins", train=800, test=200, classes=2, licence="none", homepage="https://example.org"
    )

    def read(self) -> LoadedData:
        """The same examples whatever the run's seed."""
        generator = np.random.default_rng(0)
        x, y = generator.normal(size=(1000, 40)).astype(np.float32), generator.integers(0, 2, 1000)
        return LoadedData(Examples(x[:800], y[:800]), Examples(x[800:], y[800:]), ("a", "b"), "Made up.")
