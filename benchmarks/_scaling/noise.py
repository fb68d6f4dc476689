"""80,000 made-up examples of 16 numbers, for federations of up to 20,000 clients."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.data.datasets import About, Dataset
from privfl.data.federated import Examples, LoadedData

FEATURES, CLASSES = 16, 10


_TRAIN, _TEST = 80_000, 40


class Noise(Dataset):
    """x: normal numbers; y: any class."""

    about: ClassVar[About] = About(
        title="made-up numbers", train=_TRAIN, test=_TEST, classes=CLASSES, licence="none", homepage="none"
    )

    def read(self) -> LoadedData:
        """Draw them, always the same."""
        generator = np.random.default_rng(0)
        train, test = (
            Examples(generator.standard_normal((count, FEATURES), np.float32), generator.integers(0, CLASSES, count))
            for count in (_TRAIN, _TEST)
        )
        return LoadedData(train, test, classes=tuple(map(str, range(CLASSES))), provenance="made up")
