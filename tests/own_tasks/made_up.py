"""A hundred and some made-up examples with labels of the kind that a task learns."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from privfl.data.datasets import About, Dataset
from privfl.data.federated import Examples, LoadedData

WORDS = 7


class MadeUp(Dataset):
    """Labels that follow from the inputs: numbers, a sign, several signs, or the next word of a sequence."""

    labels: Literal["numbers", "signs", "tags", "words"] = "numbers"

    about: ClassVar[About] = About("made up", 160, 80, 0, "none", "nowhere")

    def check(self, loaded: LoadedData) -> LoadedData:
        """There are as many classes as there are."""
        return loaded

    def read(self) -> LoadedData:
        """From a generator with a seed."""
        draw = np.random.default_rng(7)
        if self.labels == "words":
            # Each word is followed by the next in a circle, but for one place in five; sequences have several lengths.
            starts, places = draw.integers(WORDS, size=(240, 1)), np.arange(6)
            words = np.where(draw.random((240, 6)) < 0.2, draw.integers(WORDS, size=(240, 6)), (starts + places) % WORDS)
            y = np.where(places[1:] < draw.integers(2, 6, size=(240, 1)), words[:, 1:], -100)
            return _parts(words[:, :-1].astype(np.float32), y, tuple(f"word {k}" for k in range(WORDS)))
        x = draw.normal(size=(240, 5)).astype(np.float32)
        numbers = x @ draw.normal(size=(5, 3)) + 0.1 * draw.normal(size=(240, 3))
        found: dict[str, tuple[NDArray[Any], tuple[str, ...]]] = {
            "numbers": (numbers[:, 0].astype(np.float32), ()),
            "signs": ((numbers[:, 0] > 0).astype(np.int64), ("below", "above")),
            "tags": ((numbers > 0).astype(np.int64), ("red", "round", "ripe")),
        }
        return _parts(x, *found[self.labels])


def _parts(x: NDArray[np.float32], y: NDArray[Any], classes: tuple[str, ...]) -> LoadedData:
    return LoadedData(Examples(x[:160], y[:160]), Examples(x[160:], y[160:]), classes, "Made up.")
