"""The next token at each place of a sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import special
from torch import Tensor
from torch.nn.functional import cross_entropy

from privfl.data.federated import LoadedData
from privfl.errors import DataError
from privfl.learning.tasks import Figure, FloatArray, Task, log_odds
from privfl.learning.tasks._intervals import mapped, ratio
from privfl.records import Interval

_LARGEST = 700.0
"""A cross-entropy whose perplexity is still a number."""

_AT_ONCE = 64
"""Sequences whose outputs are widened to float64 together: those of all would take twice the memory of the outputs."""


class NextToken(Task):
    """Cross-entropy of a softmax over V tokens at each of T places; labels are the tokens that follow, int64 of shape (N, T).

    An example is a sequence. Its loss is the mean over its own places that are not padding, so that it depends on no other's
    length; a sequence of padding alone has a loss of 0.

    Args:
        padding: the label of a place that does not count.
        label_smoothing: ε; the target is 1 − ε for the token, and ε / V more for each of all tokens.
    """

    padding: int = -100
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    dims: ClassVar[int] = 3

    figures: ClassVar[Mapping[str, Figure]] = {
        "perplexity": Figure(
            "perplexity",
            "",
            "The exponential of the mean cross-entropy of a token, over {n} test sequences, held by no client.",
            higher_is_better=False,
        ),
        "accuracy": Figure(
            "token accuracy",
            "%",
            "The share of tokens of {n} test sequences with the largest output.",
            higher_is_better=True,
        ),
        "loss": Figure("cross-entropy", "nats a token", "The mean over the tokens of {n} sequences.", higher_is_better=False),
    }

    def check(self, y: NDArray[Any], classes: int) -> None:
        """See the contract."""
        if y.ndim != 2 or y.dtype != np.int64:
            raise DataError(
                f"y of {y.dtype} and shape {y.shape}; task = 'next_token' learns a token at each place, int64 of shape "
                "(N, places): y.astype(np.int64), or task = 'classification' for one class an example"
            )
        tokens = y[y != self.padding]
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < classes):
            raise DataError(
                f"tokens from {tokens.min()} to {tokens.max()}; there are {classes} in the vocabulary, from 0, and padding is "
                f"{self.padding}: set task.padding, or name every token in `classes`"
            )

    def outputs(self, data: LoadedData) -> tuple[int, ...]:
        """A logit for each token, at each place."""
        return (data.train.y.shape[1], len(data.classes))

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy of a sequence's own tokens, in nats."""
        return self._summed(outputs, y, self.label_smoothing) / self._lengths(y).clamp(min=1)

    def metrics(self, outputs: Tensor, y: Tensor, level: float = 0.95) -> dict[str, Interval]:
        """Perplexity, token accuracy and the loss of a token; sequences, and not tokens, are independent of each other."""
        lengths_N = self._lengths(y)
        right_NT = (outputs.argmax(-1) == y) & outputs.isfinite().all(-1) & (y != self.padding)
        entropy = ratio(*self.tallies(outputs, y), level)
        smooth = ratio(self._widened(outputs, y, self.label_smoothing), lengths_N, level) if self.label_smoothing else entropy
        return {
            "perplexity": mapped(entropy, lambda nats: math.exp(min(nats, _LARGEST))),
            "accuracy": ratio(right_NT.sum(1), lengths_N, level),
            "loss": smooth,
        }

    def tallies(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy of all tokens of a sequence, and how many there are."""
        return self._widened(outputs, y, 0.0), self._lengths(y).double()

    def scaled(self, ratio: FloatArray) -> FloatArray:
        """The perplexity."""
        return np.asarray(np.exp(np.minimum(ratio, _LARGEST)), dtype=np.float64)

    def unlikely(self, outputs: Tensor) -> Tensor:
        """The token that is the least expected at each place, and not padding."""
        if 0 <= self.padding < outputs.shape[-1]:
            outputs = outputs.clone()
            outputs[..., self.padding] = torch.inf
        return outputs.argmin(-1)

    def confidence(self, outputs: NDArray[np.float32], y: NDArray[Any]) -> FloatArray:
        """The log-odds of the geometric mean of a sequence's tokens' probabilities."""
        counted_NT = y != self.padding
        models = outputs.reshape(-1, *outputs.shape[-3:])
        index_NT1 = np.where(counted_NT, y, 0)[..., None]

        def surprise(logits_NTV: NDArray[np.float32]) -> FloatArray:
            wide = logits_NTV.astype(np.float64)
            nats_NT = special.logsumexp(wide, axis=-1) - np.take_along_axis(wide, index_NT1, axis=-1)[..., 0]
            return np.asarray((nats_NT * counted_NT).sum(axis=-1) / np.maximum(counted_NT.sum(axis=-1), 1), dtype=np.float64)

        found = np.array([surprise(one) for one in models]).reshape(*outputs.shape[:-3], len(y))
        return log_odds(found)

    def _lengths(self, y: Tensor) -> Tensor:
        return (y != self.padding).sum(1)

    def _summed(self, outputs: Tensor, y: Tensor, smoothing: float) -> Tensor:
        """The cross-entropy of all of a sequence's tokens."""
        losses_NT = cross_entropy(
            outputs.transpose(1, 2), y, ignore_index=self.padding, label_smoothing=smoothing, reduction="none"
        )
        return losses_NT.sum(1)

    def _widened(self, outputs: Tensor, y: Tensor, smoothing: float) -> Tensor:
        """The same in float64."""
        pairs = zip(torch.split(outputs, _AT_ONCE), torch.split(y, _AT_ONCE), strict=True)
        return torch.cat([self._summed(some.double(), labels, smoothing) for some, labels in pairs])
