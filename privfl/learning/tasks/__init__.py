"""SHELF of tasks: which loss is trained, which labels it takes, and how good the result is.

The file's name is its name in a configuration (``task = "classification"``, the default). An item is one module with one class
that derives from :class:`Task`; its fields are the task's settings.

The loss of an example depends on that example alone, never on its batch. Per-example clipping, and with it every promise at
example level, rests on that: class weights and smoothing are therefore fixed settings, and no loss is averaged here.

Suffixes: N examples, O the width of a model's last layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from privfl.data.federated import LoadedData
from privfl.errors import DataError
from privfl.records import Interval
from privfl.tables import Item

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """How a metric is shown.

    Args:
        title: its name on a page, in lower case, such as ``accuracy``.
        unit: ``%`` for a share, which is shown in percent; else the unit's name, empty for a plain number.
        meaning: a sentence that defines it, in which ``{n}`` is the number of test examples.
        higher_is_better: whether a larger value is a better model.
    """

    title: str
    unit: str
    meaning: str
    higher_is_better: bool


class Task(Item, ABC):
    """The contract of this shelf."""

    figures: ClassVar[Mapping[str, Figure]]
    """How each metric is shown, by its name. The first is the headline; all tasks have ``loss``."""

    dims: ClassVar[int] = 2
    """How many dimensions a batch of outputs has: examples, and one for the model's last layer."""

    @abstractmethod
    def check(self, y: NDArray[Any], classes: int) -> None:
        """Raise if labels do not fit; a class that no example has is fine.

        Args:
            y: labels, int64 or float32, shape (N, ...), finite. If they are int64 of shape (N,) they are below ``classes``.
            classes: how many names of classes the data give.

        Raises:
            DataError: begins with the fault of ``y``, and says how to mend it.
        """

    @abstractmethod
    def outputs(self, data: LoadedData) -> tuple[int, ...]:
        """The shape of a model's outputs for one example; the last number is the width of its last layer."""

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of each example, shape (N,), never reduced.

        Args:
            outputs: shape (N, ..., O), of any float type.
            y: labels, shape (N, ...).
        """

    @abstractmethod
    def metrics(self, outputs: Tensor, y: Tensor, level: float = 0.95) -> dict[str, Interval]:
        """How good these outputs are, by the names of :attr:`figures` and in their order.

        An example whose output is not finite must not end a run: it counts as wrong, or, in a mean of numbers, is left out.

        Raises:
            ModelError: no example's loss is finite; the model diverged.
        """

    @abstractmethod
    def tallies(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Two numbers for each example, shape (N,) each; the headline is :meth:`scaled` of the ratio of their sums.

        So the headline of every client comes out of two sums over its examples.
        """

    def scaled(self, ratio: FloatArray) -> FloatArray:
        """The headline, of the ratio that :meth:`tallies` gives; a function that never falls."""
        return ratio

    @abstractmethod
    def unlikely(self, outputs: Tensor) -> Tensor:
        """A label for each example, far from its outputs' prediction, so that no gradient vanishes; for checks."""

    @abstractmethod
    def confidence(self, outputs: NDArray[np.float32], y: NDArray[Any]) -> FloatArray:
        """How sure a model is of each example's label: the signal that membership attacks rank by, higher for members.

        It is the log-odds φ = log(p / (1 − p)) of p = exp(−loss), so that the loss is log(1 + e^−φ), and p is σ(φ) (Carlini et
        al. 2022, section VI.A, for the cross-entropy). The loss is without weights and smoothing.

        Args:
            outputs: shape (..., N, O), or (..., N, T, O) for T places each; the leading ones are models.
            y: labels, shape (N, ...).

        Returns:
            shape (..., N).
        """

    def log_probabilities(self, outputs: NDArray[np.float32]) -> FloatArray | None:  # noqa: ARG002
        """The log-probability of each class, shape (..., N, C); None if an example does not have one class of several."""
        return None

    def fitting(self, loaded: LoadedData) -> LoadedData:
        """The same data, if their labels fit.

        Raises:
            DataError: they do not; says which part, and how to mend it.
        """
        for part, examples in (("training", loaded.train), ("test", loaded.test)):
            try:
                self.check(examples.y, len(loaded.classes))
            except DataError as error:
                raise DataError(f"the {part} part has {error}") from None
        return loaded


def log_odds(surprise: FloatArray) -> FloatArray:
    """log(p / (1 − p)) of p = exp(−surprise), from 0 to infinity, without overflow; large and finite at a surprise of 0."""
    positive = np.maximum(surprise, np.finfo(np.float64).tiny)
    return np.asarray(-positive - np.log(-np.expm1(-positive)), dtype=np.float64)
