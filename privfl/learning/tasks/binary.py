"""One of two classes for each example, from one output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from privfl.auditing import auc
from privfl.data.federated import LoadedData
from privfl.errors import DataError
from privfl.learning.tasks import Figure, FloatArray, Task
from privfl.learning.tasks._intervals import mean, share
from privfl.records import Interval


class Binary(Task):
    """Binary cross-entropy of one logit z, with σ(z) the probability of class 1; labels are 0 and 1, int64 of shape (N,).

    Args:
        positive_weight: a factor for the loss of examples of class 1.
        label_smoothing: ε; the target is 1 − ε/2 for class 1, and ε/2 for class 0.
    """

    positive_weight: PositiveFloat = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    figures: ClassVar[Mapping[str, Figure]] = {
        "accuracy": Figure(
            "accuracy",
            "%",
            "The share of {n} test examples, held by no client, that the final model labels correctly.",
            higher_is_better=True,
        ),
        "auc": Figure(
            "AUC",
            "",
            "The probability that one of {n} test examples of class 1 has a larger output than one of class 0.",
            higher_is_better=True,
        ),
        "sensitivity": Figure(
            "sensitivity",
            "%",
            "The share of {n} test examples of class 1 that the final model labels correctly (recall).",
            higher_is_better=True,
        ),
        "specificity": Figure(
            "specificity",
            "%",
            "The share of {n} test examples of class 0 that the final model labels correctly.",
            higher_is_better=True,
        ),
        "brier": Figure(
            "Brier score",
            "",
            "The mean squared difference of probability and label over {n} test examples. Always saying ½ gives 0.25.",
            higher_is_better=False,
        ),
        "loss": Figure("cross-entropy", "nats", "The mean loss of {n} test examples.", higher_is_better=False),
    }

    def check(self, y: NDArray[Any], classes: int) -> None:
        """See the contract."""
        if y.ndim != 1 or y.dtype != np.int64:
            raise DataError(
                f"y of {y.dtype} and shape {y.shape}; task = 'binary' learns labels 0 and 1, int64 of shape (N,): "
                "y.astype(np.int64), or task = 'multilabel' for several of them an example"
            )
        if classes != 2:
            raise DataError(f"{classes} classes; task = 'binary' has one output for two: set task = 'classification'")

    def outputs(self, data: LoadedData) -> tuple[int, ...]:  # noqa: ARG002
        """One logit."""
        return (1,)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Binary cross-entropy, in nats."""
        label = y.to(outputs.dtype)
        target = label * (1 - self.label_smoothing) + self.label_smoothing / 2
        loss_N = binary_cross_entropy_with_logits(outputs[:, 0], target, reduction="none")
        return loss_N if self.positive_weight == 1 else loss_N * (1 + (self.positive_weight - 1) * label)

    def metrics(self, outputs: Tensor, y: Tensor, level: float = 0.95) -> dict[str, Interval]:
        """Accuracy; AUC, sensitivity and specificity if there are both classes; Brier score (Brier 1950), and loss."""
        found = {"accuracy": share(_correct(outputs, y), level)}
        finite = outputs[:, 0].isfinite()
        scores, positive = outputs[finite, 0].cpu().double().numpy(), (y[finite] == 1).cpu().numpy()
        if positive.any() and not positive.all():
            area = auc(scores, positive, level)
            found["auc"] = Interval(value=area.value, low=area.low, high=area.high, n=len(scores), level=level)
        for name, label in (("sensitivity", 1), ("specificity", 0)):
            if (y == label).any():
                found[name] = share(_correct(outputs, y)[y == label], level)
        found["brier"] = mean((outputs[:, 0].double().sigmoid() - y.double()) ** 2, level)
        return found | {"loss": mean(self.loss(outputs.double(), y), level)}

    def tallies(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Whether it is right, and 1."""
        right_N = _correct(outputs, y).double()
        return right_N, right_N.new_ones(len(right_N))

    def unlikely(self, outputs: Tensor) -> Tensor:
        """The other class."""
        return (outputs[:, 0] <= 0).long()

    def confidence(self, outputs: NDArray[np.float32], y: NDArray[Any]) -> FloatArray:
        """The logit, with its sign turned for class 0."""
        return np.asarray(outputs[..., 0].astype(np.float64) * (2 * y - 1), dtype=np.float64)

    def log_probabilities(self, outputs: NDArray[np.float32]) -> FloatArray:
        """The logs of 1 − σ(z) and σ(z)."""
        logits = outputs[..., 0].astype(np.float64)
        return np.asarray(-np.logaddexp(0.0, np.stack([logits, -logits], axis=-1)), dtype=np.float64)


def _correct(outputs: Tensor, y: Tensor) -> Tensor:
    """Which examples are labelled correctly, shape (N,); an output that is not finite is wrong."""
    return ((outputs[:, 0] > 0) == (y == 1)) & outputs[:, 0].isfinite()
