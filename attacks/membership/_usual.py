"""The signal that a model gives to examples nobody trained on, by input and label (Bertran et al. 2023, section 4)."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict

from attacks.membership import FloatArray, LabelArray, LogitArray
from privfl.learning.tasks import Task
from privfl.running.knowledge import LabelledExamples


def margins(task: Task, logits_NC: LogitArray, labels_N: LabelArray) -> FloatArray:
    """z_y − max of the other outputs, of shape (N,); without classes the task's confidence."""
    log_NC = task.log_probabilities(logits_NC)
    if log_NC is None:
        return task.confidence(logits_NC, labels_N)
    of_label = np.arange(log_NC.shape[1]) == labels_N.reshape(-1, 1)
    return np.asarray(log_NC[of_label] - np.where(of_label, -np.inf, log_NC).max(1))


class Usual:
    """The signal that a model gives to examples that nobody trained on, by input and label.

    Args:
        components: the number of principal components.
        population: P examples that nobody trained on.
        signal_P: the model's signal on them.
    """

    def __init__(self, components: int, population: LabelledExamples, signal_P: FloatArray) -> None:
        flat_PF = _flat(population)
        least = min(components, *flat_PF.shape)
        self._reduction = PCA(least, svd_solver="randomized" if least < min(flat_PF.shape) else "full", random_state=0)
        features_PF = np.column_stack([self._reduction.fit_transform(flat_PF), _labels(population)])
        folds = KFold(min(_FOLDS, len(signal_P)), shuffle=True, random_state=0)
        errors_P = signal_P - cross_val_predict(_trees(), features_PF, signal_P, cv=folds)
        self._mean = _trees().fit(features_PF, signal_P)
        # No error is so small that its logarithm decides.
        least_error = _LEAST * max(float(np.abs(errors_P).mean()), np.finfo(np.float64).tiny)
        self._log_deviation = _trees().fit(features_PF, np.log(np.maximum(np.abs(errors_P), least_error)))

    def score(self, examples: LabelledExamples, signal_N: FloatArray) -> FloatArray:
        """(s − µ(x))/σ(x), of shape (N,)."""
        features_NF = np.column_stack([self._reduction.transform(_flat(examples)), _labels(examples)])
        return np.asarray((signal_N - self._mean.predict(features_NF)) / np.exp(self._log_deviation.predict(features_NF)))


def _trees() -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(random_state=0)


def _flat(examples: LabelledExamples) -> NDArray[np.float32]:
    x: torch.Tensor = examples.x[:]
    return x.flatten(1).float().cpu().numpy()


def _labels(examples: LabelledExamples) -> NDArray[np.float64]:
    return examples.y_N.reshape(len(examples), -1).astype(np.float64)


_FOLDS: Final = 5

_LEAST: Final = 0.01
"""Share of the mean error."""
