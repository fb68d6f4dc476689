"""Patients with two inputs: a few measurements, and the words of a note."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privfl.data.datasets import About, Dataset
from privfl.data.federated import Examples, LoadedData


class Patients(Dataset):
    """Made up: the label follows from one measurement and one word."""

    about: ClassVar[About] = About("made up", 160, 80, 2, "none", "nowhere")

    def read(self) -> LoadedData:
        """From a generator with a seed."""
        draw = np.random.default_rng(3)
        measured, words = draw.normal(size=(240, 2, 2)).astype(np.float32), draw.integers(6, size=(240, 4))
        y = (measured[:, 0, 0] + (words == 5).any(axis=1) > 0.4).astype(np.int64)
        train, test = (
            Examples.of({"words": words[part], "measured": measured[part]}, y[part]) for part in (slice(160), slice(160, 240))
        )
        return LoadedData(train, test, ("well", "ill"), "Made up.")
