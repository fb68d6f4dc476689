"""Metrics of each task by hand, their intervals, the labels that are refused, and the signal that attacks rank by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from privfl.errors import DataError
from privfl.learning.evaluation import client_spread
from privfl.learning.tasks import Task, log_odds
from privfl.learning.tasks.binary import Binary
from privfl.learning.tasks.classification import CLASSIFICATION, Classification
from privfl.records import Evaluation, Interval, Result

BINARY = Binary(kind="binary")


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


# --- labels -------------------------------------------------------------------------------------------------------------

N = np.arange(6)
REFUSED: list[tuple[Task, NDArray[Any], int, str]] = [
    (CLASSIFICATION, N.astype(np.float32), 6, "y of float32; task = 'classification' learns classes"),
    (CLASSIFICATION, np.ones((6, 2), np.int64), 2, "learns one class an example"),
    (CLASSIFICATION, np.eye(6, dtype=np.int64), 6, r"one-hot; .* y\.argmax\(axis=1\)"),
    (Classification(kind="classification", weights=(1.0, 2.0)), N, 6, "6 classes, and task.weights has 2"),
    (BINARY, N % 3, 3, "3 classes; task = 'binary' has one output for two: set task = 'classification'"),
    (BINARY, (N % 2).astype(np.float32), 2, r"y of float32 .* y\.astype\(np\.int64\)"),
    (BINARY, np.ones((6, 2), np.int64), 2, "'multilabel' for several"),
]


@pytest.mark.parametrize(("task", "y", "classes", "says"), REFUSED)
def test_labels_that_do_not_fit_are_refused_in_one_line(task: Task, y: NDArray[Any], classes: int, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        task.check(y, classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("task", "y", "classes"), [(CLASSIFICATION, N % 3, 9), (BINARY, N * 0, 2)])
def test_a_class_that_no_example_has_is_fine(task: Task, y: NDArray[Any], classes: int) -> None:
    task.check(y, classes)


# --- metrics ------------------------------------------------------------------------------------------------------------


def test_binary_by_hand() -> None:
    outputs, y = column(2.0, -1.0, 0.5, -3.0), torch.tensor([1, 1, 0, 0])
    found = BINARY.metrics(outputs, y)
    assert list(found) == list(BINARY.figures)
    assert (found["accuracy"].value, found["accuracy"].n) == (0.5, 4)
    # Of the four pairs of a one and a zero, three are in order: -1 is below 0.5.
    assert found["auc"].value == pytest.approx(0.75)
    losses = [math.log1p(math.exp(-margin)) for margin in (2.0, -1.0, -0.5, 3.0)]
    assert found["loss"].value == pytest.approx(np.mean(losses), rel=1e-6)
    assert BINARY.metrics(outputs, y, 0.5)["loss"].high < found["loss"].high


def test_there_is_no_auc_of_one_class_alone() -> None:
    assert list(BINARY.metrics(column(1.0, 2.0), torch.tensor([1, 1]))) == ["accuracy", "loss"]


@pytest.mark.parametrize("task", [BINARY])
def test_an_output_that_overflows_does_not_end_a_run(task: Task) -> None:
    outputs, y = column(2.0, torch.inf, torch.nan, -3.0), torch.tensor([1, 1, 0, 0])
    found = task.metrics(outputs, y)
    assert all(math.isfinite(one.value) for one in found.values())
    assert found["accuracy"].value == 0.5


def test_weights_and_smoothing_of_two_classes() -> None:
    task = Binary(kind="binary", positive_weight=3.0, label_smoothing=0.2)
    found = task.loss(column(0.7, 0.7).double(), torch.tensor([1, 0]))
    high, low = math.log1p(math.exp(-0.7)), math.log1p(math.exp(0.7))
    assert found.tolist() == pytest.approx([3 * (0.9 * high + 0.1 * low), 0.1 * high + 0.9 * low], rel=1e-7)


# --- by client ------------------------------------------------------------------------------------------------------------

SPREAD: list[tuple[Task, Tensor, Tensor]] = [
    (BINARY, column(2.0, -1.0, 0.5, -3.0, 1.0, -0.5), torch.tensor([1, 1, 0, 0, 1, 0])),
]


@pytest.mark.parametrize(("task", "outputs", "y"), SPREAD)
def test_the_headline_of_a_client_is_that_of_its_examples_alone(task: Task, outputs: Tensor, y: Tensor) -> None:
    owner_N = np.array([0, 0, 2, 2, 2, 0])
    found = client_spread(task, outputs, y, owner_N)
    alone = [next(iter(task.metrics(outputs[owner_N == k], y[owner_N == k]).values())).value for k in (0, 2)]
    assert found is not None
    assert (found.minimum, found.maximum) == pytest.approx((min(alone), max(alone)), rel=1e-6)


# --- the signal -----------------------------------------------------------------------------------------------------------

SIGNALS: list[tuple[Task, Tensor, Tensor]] = [
    (CLASSIFICATION, torch.tensor([[0.3, -1.0, 2.0], [4.0, 0.0, 1.0]]), torch.tensor([2, 1])),
    (BINARY, column(2.0, -1.0), torch.tensor([1, 0])),
]


@pytest.mark.parametrize(("task", "outputs", "y"), SIGNALS)
def test_the_signal_is_the_log_odds_of_the_loss_for_any_number_of_models(task: Task, outputs: Tensor, y: Tensor) -> None:
    stacked = torch.stack([outputs, outputs * 2, outputs - 1])
    found = task.confidence(stacked.numpy(), y.numpy())
    assert found.shape == (3, len(y))
    losses = torch.stack([task.loss(one.double(), y) for one in stacked]).numpy()
    np.testing.assert_allclose(special.log1p(np.exp(-found)), losses, rtol=1e-6)
    np.testing.assert_allclose(task.confidence(outputs.numpy(), y.numpy()), found[0])


def test_log_odds_neither_overflow_nor_tie() -> None:
    found = log_odds(np.array([0.0, 1e-300, 1e-12, math.log(2), 40.0, 1e4]))
    assert np.isfinite(found).all()
    assert (np.diff(found) <= 0).all()
    assert found[3:] == pytest.approx([0.0, -40.0, -1e4])
    assert found[2] > 27


@pytest.mark.parametrize(("task", "outputs", "y"), SIGNALS)
def test_probabilities_are_of_the_classes(task: Task, outputs: Tensor, y: Tensor) -> None:
    found = task.probabilities(outputs.numpy())
    if found is not None:
        np.testing.assert_allclose(found.sum(axis=-1), 1.0)
        np.testing.assert_allclose(found[np.arange(len(y)), y], special.expit(task.confidence(outputs.numpy(), y.numpy())))


# --- records --------------------------------------------------------------------------------------------------------------


def test_a_record_keeps_which_metric_is_the_headline_though_keys_are_sorted() -> None:
    metrics = {name: Interval(value=k, low=k, high=k, n=3) for k, name in enumerate(("rmse", "mae", "loss"))}
    fields = dict.fromkeys(Result.model_fields) | {"rounds": 1, "parameters": 2, "engine": "", "hides_updates": False}
    fields |= {"bytes_up": 1, "bytes_down": 1, "bytes_plain": 1, "evaluation": Evaluation(metrics=metrics, clients=None)}
    result = Result.model_validate({**fields, "train": 0.5})
    written = result.model_dump()
    assert written["train_rmse"] == 0.5
    assert list(written["evaluation"]) == ["rmse", "mae", "loss", "clients"]
    sorted_keys = {**dict(sorted(written.items())), "evaluation": dict(sorted(written["evaluation"].items()))}
    read = Result.model_validate(sorted_keys)
    assert (read.evaluation.name, read.evaluation.headline.value, read.train) == ("rmse", 0, 0.5)
    assert read.evaluation.metrics == metrics
