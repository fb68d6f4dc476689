"""A number for each example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import huber_loss, mse_loss

from privfl.data.federated import LoadedData
from privfl.errors import DataError
from privfl.learning.tasks import Figure, FloatArray, Task, log_odds
from privfl.learning.tasks._intervals import mapped, mean, ratio
from privfl.records import Interval


class Regression(Task):
    """The error of one output ŷ; labels are numbers, float32 of shape (N,).

    Args:
        error: ``squared``, (y − ŷ)²; or ``huber``, (y − ŷ)²/2 up to ``delta`` and δ (|y − ŷ| − δ/2) beyond (Huber 1964).
        delta: δ, of ``huber``, in the label's unit.
    """

    error: Literal["squared", "huber"] = "squared"
    delta: PositiveFloat = 1.0

    figures: ClassVar[Mapping[str, Figure]] = {
        "rmse": Figure(
            "RMSE",
            "",
            "The root of the mean squared error over {n} test examples, held by no client, in the label's unit.",
            higher_is_better=False,
        ),
        "mae": Figure("MAE", "", "The mean absolute error over {n} test examples.", higher_is_better=False),
        "r2": Figure("R²", "", "The share of the variance of {n} labels that the outputs explain.", higher_is_better=True),
        "loss": Figure("loss", "", "The mean loss of {n} test examples.", higher_is_better=False),
    }

    def check(self, y: NDArray[Any], classes: int) -> None:  # noqa: ARG002
        """See the contract."""
        if y.ndim != 1:
            raise DataError(
                f"y of shape {y.shape}; task = 'regression' learns one number an example: y[:, 0] takes the first column"
            )
        if y.dtype != np.float32:
            raise DataError(
                f"y of {y.dtype}; task = 'regression' learns numbers, float32: y.astype(np.float32), or task = "
                "'classification' if they are classes"
            )

    def outputs(self, data: LoadedData) -> tuple[int, ...]:  # noqa: ARG002
        """One number."""
        return (1,)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The squared error, or Huber's."""
        label_N = y.to(outputs.dtype)
        if self.error == "squared":
            return mse_loss(outputs[:, 0], label_N, reduction="none")
        return huber_loss(outputs[:, 0], label_N, reduction="none", delta=self.delta)

    def metrics(self, outputs: Tensor, y: Tensor, level: float = 0.95) -> dict[str, Interval]:
        """RMSE, MAE, R² if the labels differ, and loss."""
        error_N = outputs[:, 0].double() - y
        found = {
            "rmse": mapped(mean(error_N.square(), level), _root),
            "mae": mean(error_N.abs(), level),
        }
        label_N = y[error_N.isfinite()].double()
        # Moving the mean changes the sum of squares around it in second order only: the interval may take it as given.
        around_N = (y.double() - label_N.mean()).square()
        if bool(around_N.any()):
            left = ratio(error_N.square(), around_N, level)
            found["r2"] = left.model_copy(update={"value": 1 - left.value, "low": 1 - left.high, "high": 1 - left.low})
        return found | {"loss": mean(self.loss(outputs.double(), y), level)}

    def tallies(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The squared error, and 1."""
        squares_N = (outputs[:, 0].double() - y).square()
        return squares_N, squares_N.new_ones(len(squares_N))

    def scaled(self, ratio: FloatArray) -> FloatArray:
        """The root of the mean."""
        return np.asarray(np.sqrt(ratio), dtype=np.float64)

    def unlikely(self, outputs: Tensor) -> Tensor:
        """A number that is larger by one."""
        return outputs[:, 0] + 1

    def confidence(self, outputs: NDArray[np.float32], y: NDArray[Any]) -> FloatArray:
        """The log-odds of exp(−loss), the likelihood of a label under noise around the output up to a constant."""
        error = np.abs(outputs[..., 0].astype(np.float64) - y)
        if self.error == "squared":
            return log_odds(error**2)
        return log_odds(np.where(error <= self.delta, error**2 / 2, self.delta * (error - self.delta / 2)))


def _root(square: float) -> float:
    return math.sqrt(max(square, 0.0))
