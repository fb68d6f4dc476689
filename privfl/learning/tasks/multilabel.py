"""Several yes-or-no labels for each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from privfl.data.federated import LoadedData
from privfl.errors import DataError
from privfl.learning.tasks import Figure, FloatArray, Task, log_odds
from privfl.learning.tasks._intervals import mean, ratio, share
from privfl.records import Interval


class Multilabel(Task):
    """The mean over L labels of the binary cross-entropy of a logit each; labels are 0 and 1, int64 of shape (N, L).

    Args:
        positive_weights: a factor for the loss of each label if it is 1, L of them; none: all 1.
        label_smoothing: ε; the target is 1 − ε/2 for a label that is 1, and ε/2 for one that is 0.
    """

    positive_weights: Annotated[tuple[PositiveFloat, ...], Field(strict=False)] = ()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    figures: ClassVar[Mapping[str, Figure]] = {
        "f1": Figure(
            "F1",
            "%",
            "The harmonic mean of precision and recall over all labels of {n} test examples, held by no client.",
            higher_is_better=True,
        ),
        "label_accuracy": Figure(
            "label accuracy", "%", "The share of the labels of {n} test examples that are right.", higher_is_better=True
        ),
        "exact": Figure(
            "exact matches", "%", "The share of {n} test examples all labels of which are right.", higher_is_better=True
        ),
        "loss": Figure("cross-entropy", "nats", "The mean over labels and {n} test examples.", higher_is_better=False),
    }

    def check(self, y: NDArray[Any], classes: int) -> None:
        """See the contract."""
        if y.ndim != 2 or y.dtype != np.int64 or not bool(((y == 0) | (y == 1)).all()):
            raise DataError(
                f"y of {y.dtype} and shape {y.shape}; task = 'multilabel' learns zeros and ones, int64 of shape (N, labels): "
                "(y > 0).astype(np.int64), or task = 'classification' for one class an example"
            )
        if y.shape[1] != classes:
            raise DataError(f"y of shape {y.shape}, and {classes} labels have a name; give `classes` one name for each column")
        if self.positive_weights and len(self.positive_weights) != classes:
            raise DataError(f"{classes} labels, and task.positive_weights has {len(self.positive_weights)}; give one for each")

    def outputs(self, data: LoadedData) -> tuple[int, ...]:
        """One logit for each label."""
        return (len(data.classes),)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Binary cross-entropy, in nats a label."""
        label = y.to(outputs.dtype)
        target = label * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses_NL = binary_cross_entropy_with_logits(outputs, target, reduction="none")
        if self.positive_weights:
            losses_NL = losses_NL * (1 + (outputs.new_tensor(self.positive_weights) - 1) * label)
        return losses_NL.mean(1)

    def metrics(self, outputs: Tensor, y: Tensor, level: float = 0.95) -> dict[str, Interval]:
        """Micro-averaged F1, label accuracy, exact matches and loss; an output that is not finite is wrong."""
        wrong_NL = _wrong(outputs, y)
        return {
            "f1": ratio(*self.tallies(outputs, y), level),
            "label_accuracy": mean((~wrong_NL).double().mean(1), level),
            "exact": share(~wrong_NL.any(1), level),
            "loss": mean(self.loss(outputs.double(), y), level),
        }

    def tallies(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """2 TP, and 2 TP + FP + FN, the ratio of which is F1."""
        wrong_NL = _wrong(outputs, y)
        above_N = 2.0 * ((y == 1) & ~wrong_NL).sum(1)
        return above_N.double(), above_N.double() + wrong_NL.sum(1)

    def unlikely(self, outputs: Tensor) -> Tensor:
        """Every label turned around."""
        return (outputs <= 0).long()

    def confidence(self, outputs: NDArray[np.float32], y: NDArray[Any]) -> FloatArray:
        """The log-odds of the geometric mean of the labels' probabilities."""
        margins = outputs.astype(np.float64) * (2 * y - 1)
        return log_odds(np.logaddexp(0.0, -margins).mean(axis=-1))


def _wrong(outputs: Tensor, y: Tensor) -> Tensor:
    """Which labels are wrong, shape (N, L)."""
    return ((outputs > 0) != (y == 1)) | ~outputs.isfinite()
