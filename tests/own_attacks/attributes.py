"""A table with a coin as its last column, which the label either reveals or is memorised with."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from privfl.data.datasets import About, Dataset
from privfl.data.federated import Examples, LoadedData


class Attributes(Dataset):
    """x: 30 normal numbers and the attribute, 0 or 4. y: 1 for 4, wrong for a tenth, or a coin of its own.

    Args:
        label: ``reveals`` the attribute, or is a coin.
    """

    label: Literal["reveals", "coin"] = "reveals"

    about: ClassVar[About] = About(
        title="attributes", train=800, test=1000, classes=2, licence="none", homepage="https://example.org"
    )

    def read(self) -> LoadedData:
        """The same examples whatever the run's seed."""
        generator = np.random.default_rng(0)
        numbers, hidden = generator.normal(size=(1800, 30)), generator.integers(0, 2, 1800)
        wrong, coin = generator.random(1800) < 0.1, generator.integers(0, 2, 1800)
        y = hidden ^ wrong if self.label == "reveals" else coin
        x = np.column_stack([numbers, 4 * hidden]).astype(np.float32)
        return LoadedData(Examples(x[:800], y[:800]), Examples(x[800:], y[800:]), ("a", "b"), "Made up.")
