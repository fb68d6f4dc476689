"""One class of several for each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat
from scipy import special
from torch import Tensor
from torch.nn.functional import cross_entropy

from privfl.data.federated import LoadedData
from privfl.errors import DataError
from privfl.learning.tasks import Figure, FloatArray, Task
from privfl.learning.tasks._intervals import mean, share
from privfl.records import Interval


class Classification(Task):
    """Cross-entropy of a softmax over C logits; labels are classes, int64 of shape (N,), from 0 to C − 1.

    Args:
        weights: a factor for the loss of the examples of each class, C of them; none: all 1. An example's loss is multiplied
            by its class' weight, and no batch is divided by the weights in it.
        label_smoothing: ε; the target is 1 − ε for the class, and ε / C more for each of all classes (Szegedy et al. 2016,
            section 7).
    """

    weights: Annotated[tuple[PositiveFloat, ...], Field(strict=False)] = ()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    figures: ClassVar[Mapping[str, Figure]] = {
        "accuracy": Figure(
            "accuracy",
            "%",
            "The share of {n} test examples, held by no client, that the final model labels correctly.",
            higher_is_better=True,
        ),
        "loss": Figure("cross-entropy", "nats", "The mean loss of {n} test examples.", higher_is_better=False),
    }

    def check(self, y: NDArray[Any], classes: int) -> None:
        """See the contract."""
        if y.ndim == 2 and bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()):
            raise DataError(f"y of shape {y.shape}, one-hot; classes must be of shape (N,): y.argmax(axis=1).astype(np.int64)")
        if y.ndim != 1:
            raise DataError(
                f"y of shape {y.shape}; task = 'classification' learns one class an example, from labels of shape (N,): "
                "for several yes-or-no labels set task = 'multilabel', for a class at each place 'next_token'"
            )
        if y.dtype != np.int64:
            raise DataError(
                f"y of {y.dtype}; task = 'classification' learns classes, int64 from 0: y.astype(np.int64) if these are "
                "classes, task = 'regression' if they are numbers"
            )
        if self.weights and len(self.weights) != classes:
            raise DataError(f"{classes} classes, and task.weights has {len(self.weights)}; give one weight for each class")

    def outputs(self, data: LoadedData) -> tuple[int, ...]:
        """One logit for each class."""
        return (len(data.classes),)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, in nats."""
        weights = outputs.new_tensor(self.weights) if self.weights else None
        return cross_entropy(outputs, y, weight=weights, label_smoothing=self.label_smoothing, reduction="none")

    def metrics(self, outputs: Tensor, y: Tensor, level: float = 0.95) -> dict[str, Interval]:
        """Accuracy and loss."""
        return {
            "accuracy": share(correct(outputs, y), level),
            "loss": mean(self.loss(outputs.double(), y), level),
        }

    def tallies(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Whether it is right, and 1."""
        right_N = correct(outputs, y).double()
        return right_N, right_N.new_ones(len(right_N))

    def unlikely(self, outputs: Tensor) -> Tensor:
        """The class that each is the least taken for."""
        return outputs.argmin(1)

    def confidence(self, outputs: NDArray[np.float32], y: NDArray[Any]) -> FloatArray:
        """z_y − log Σ_{c≠y} exp(z_c), which does not tie at confident outputs as a probability does."""
        wide = outputs.astype(np.float64)
        others = wide.copy()
        index = np.arange(len(y))
        others[..., index, y] = -np.inf
        return np.asarray(wide[..., index, y] - special.logsumexp(others, axis=-1), dtype=np.float64)

    def log_probabilities(self, outputs: NDArray[np.float32]) -> FloatArray:
        """Log-softmax."""
        return np.asarray(special.log_softmax(outputs.astype(np.float64), axis=-1), dtype=np.float64)


def correct(logits_NC: Tensor, y_N: Tensor) -> Tensor:
    """Which examples are labelled correctly, of shape (N,). An example that overflows is not: it must not end a run."""
    return (logits_NC.argmax(1) == y_N) & logits_NC.isfinite().all(dim=1)


CLASSIFICATION: Final = Classification(kind="classification")
"""The task of a run that names none."""
