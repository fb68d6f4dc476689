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

from privfl.errors import DataError, ModelError
from privfl.learning.evaluation import client_spread
from privfl.learning.tasks import Task, log_odds
from privfl.learning.tasks.binary import Binary
from privfl.learning.tasks.classification import CLASSIFICATION, Classification
from privfl.learning.tasks.multilabel import Multilabel
from privfl.learning.tasks.next_token import NextToken
from privfl.learning.tasks.regression import Regression
from privfl.records import Evaluation, Interval, Result

BINARY = Binary(kind="binary")
REGRESSION, HUBER = Regression(kind="regression"), Regression(kind="regression", error="huber", delta=0.5)
MULTILABEL, NEXT = Multilabel(kind="multilabel"), NextToken(kind="next_token")
IGNORED = -100


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
    (REGRESSION, np.ones((6, 2), np.float32), 0, r"y of shape \(6, 2\); .* one number an example: y\[:, 0\]"),
    (REGRESSION, N, 6, r"y of int64; .* y\.astype\(np\.float32\)"),
    (MULTILABEL, N % 2, 2, r"y of int64 and shape \(6,\); .* \(N, labels\)"),
    (MULTILABEL, np.full((6, 2), 2), 2, r"zeros and ones.* \(y > 0\)"),
    (MULTILABEL, np.ones((6, 2), np.int64), 3, "3 labels have a name"),
    (Multilabel(kind="multilabel", positive_weights=(1.0,)), np.ones((6, 2), np.int64), 2, "task.positive_weights has 1"),
    (NEXT, N, 6, r"a token at each place, int64 of shape \(N, places\)"),
    (NEXT, np.ones((6, 2), np.float32), 6, r"y of float32"),
    (NEXT, np.array([[0, 6]]), 6, "tokens from 0 to 6; there are 6 in the vocabulary"),
    (NEXT, np.array([[0, -1]]), 6, "padding is -100: set task.padding"),
]


@pytest.mark.parametrize(("task", "y", "classes", "says"), REFUSED)
def test_labels_that_do_not_fit_are_refused_in_one_line(task: Task, y: NDArray[Any], classes: int, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        task.check(y, classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "y", "classes"),
    [
        (CLASSIFICATION, N % 3, 9),
        (BINARY, N * 0, 2),
        (REGRESSION, N.astype(np.float32), 0),
        (MULTILABEL, np.zeros((6, 2), np.int64), 2),
        (NEXT, np.array([[0, IGNORED], [IGNORED, IGNORED]]), 6),
    ],
)
def test_a_class_that_no_example_has_is_fine(task: Task, y: NDArray[Any], classes: int) -> None:
    task.check(y, classes)


# --- metrics ------------------------------------------------------------------------------------------------------------


def test_binary_by_hand() -> None:
    outputs, y = column(2.0, -1.0, 0.5, -3.0), torch.tensor([1, 1, 0, 0])
    found = BINARY.metrics(outputs, y)
    assert list(found) == list(BINARY.figures)
    assert (found["accuracy"].value, found["accuracy"].n) == (0.5, 4)
    # Three of the four pairs of a one and a zero are in order: -1 is below 0.5.
    assert found["auc"].value == pytest.approx(0.75)
    losses = [math.log1p(math.exp(-margin)) for margin in (2.0, -1.0, -0.5, 3.0)]
    assert found["loss"].value == pytest.approx(np.mean(losses), rel=1e-6)
    # One of the two ones is found, and one of the two zeros is taken for a one.
    assert (found["sensitivity"].value, found["sensitivity"].n) == (0.5, 2)
    assert (found["specificity"].value, found["specificity"].n) == (0.5, 2)
    wrong = [1 / (1 + math.exp(margin)) for margin in (2.0, -1.0, -0.5, 3.0)]
    assert found["brier"].value == pytest.approx(np.mean(np.square(wrong)), rel=1e-6)
    assert BINARY.metrics(outputs, y, 0.5)["loss"].high < found["loss"].high


def test_there_is_no_auc_of_one_class_alone() -> None:
    assert list(BINARY.metrics(column(1.0, 2.0), torch.tensor([1, 1]))) == ["accuracy", "sensitivity", "brier", "loss"]


OVERFLOWING: list[tuple[Task, Tensor, Tensor, float]] = [
    # Two right, two that are not finite and therefore wrong.
    (BINARY, column(2.0, torch.inf, torch.nan, -3.0), torch.tensor([1, 1, 0, 0]), 0.5),
    # Numbers are left out: errors of 3 and 4.
    (REGRESSION, column(4.0, torch.inf, torch.nan, -3.0), torch.tensor([1.0, 1.0, 0.0, 1.0]), math.sqrt(12.5)),
    # 2 TP = 2, and one label is wrong.
    (MULTILABEL, torch.tensor([[2.0, -1.0], [torch.nan, -1.0]]), torch.tensor([[1, 0], [0, 0]]), 2 / 3),
    # The sequence that is not finite is left out of the mean; the other is even between two tokens.
    (NEXT, torch.tensor([[[0.0, 0.0]], [[torch.nan, 0.0]]]), torch.tensor([[0], [1]]), 2.0),
]


@pytest.mark.parametrize(("task", "outputs", "y", "headline"), OVERFLOWING)
def test_an_output_that_overflows_does_not_end_a_run(task: Task, outputs: Tensor, y: Tensor, headline: float) -> None:
    found = task.metrics(outputs, y)
    assert all(math.isfinite(one.value) for one in found.values())
    assert next(iter(found.values())).value == pytest.approx(headline)


@pytest.mark.parametrize(("task", "outputs", "y"), [case[:3] for case in OVERFLOWING])
def test_a_model_that_diverged_is_said_to_have(task: Task, outputs: Tensor, y: Tensor) -> None:
    with pytest.raises(ModelError, match="training diverged"):
        task.metrics(torch.full_like(outputs, torch.nan), y)


def test_regression_by_hand() -> None:
    outputs, y = column(1.0, 2.0, 5.0), torch.tensor([1.0, 4.0, 4.0])
    found = REGRESSION.metrics(outputs, y)
    assert list(found) == list(REGRESSION.figures)
    values = {name: one.value for name, one in found.items()}
    assert values == pytest.approx({"rmse": math.sqrt(5 / 3), "mae": 1.0, "r2": 1 - 5 / 6, "loss": 5 / 3})
    half = 1.959963984540054 * np.std([0.0, 4.0, 1.0], ddof=1) / math.sqrt(3)
    assert (found["rmse"].low, found["rmse"].high) == pytest.approx((0.0, math.sqrt(5 / 3 + half)))
    assert HUBER.metrics(outputs, y)["loss"].value == pytest.approx((0.0 + 0.5 * 1.75 + 0.5 * 0.75) / 3)
    assert "r2" not in REGRESSION.metrics(outputs, torch.ones(3))


def test_multilabel_by_hand() -> None:
    outputs = torch.tensor([[2.0, -1.0, 1.0], [1.0, 1.0, -1.0], [-2.0, -1.0, -1.0]])
    y = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    found = MULTILABEL.metrics(outputs, y)
    assert list(found) == list(MULTILABEL.figures)
    # Three right ones, one wrong one, one missed.
    assert found["f1"].value == pytest.approx(6 / 8)
    assert found["label_accuracy"].value == pytest.approx(7 / 9)
    assert found["exact"].value == pytest.approx(1 / 3)
    assert MULTILABEL.metrics(outputs - 9, y * 0)["f1"].value == 0.0


def test_next_token_by_hand() -> None:
    outputs = torch.zeros(2, 3, 4)
    outputs[0, 0, 1] = math.log(5)
    y = torch.tensor([[1, 2, IGNORED], [3, IGNORED, IGNORED]])
    found = NEXT.metrics(outputs, y)
    assert list(found) == list(NEXT.figures)
    nats = (math.log(8 / 5) + 2 * math.log(4)) / 3
    assert found["loss"].value == pytest.approx(nats)
    assert found["perplexity"].value == pytest.approx(math.exp(nats))
    assert found["accuracy"].value == pytest.approx(1 / 3)
    assert NEXT.loss(outputs, y).tolist() == pytest.approx([(math.log(8 / 5) + math.log(4)) / 2, math.log(4)])
    assert NEXT.loss(outputs, torch.full_like(y, IGNORED)).tolist() == [0.0, 0.0]
    # A vocabulary in which padding is a token: checks must not train on it.
    assert int((NextToken(kind="next_token", padding=0).unlikely(outputs) == 0).sum()) == 0


def test_intervals_of_ratios_cover() -> None:
    """400 samples each of R², F1 and perplexity; coverage is within 0.95 ± 0.05, 4.6 standard errors (false alarm 1e-5)."""
    draw, covered = torch.Generator().manual_seed(1), dict.fromkeys(("r2", "f1", "perplexity"), 0)
    lengths = torch.arange(200) % 5 + 1
    for _ in range(400):
        x, noise, coins = (torch.randn(200, generator=draw, dtype=torch.float64) for _ in range(3))
        r2 = REGRESSION.metrics(x[:, None], (x + noise).float())["r2"]
        labels = (coins > 0).long()[:, None].repeat(1, 2)
        f1 = MULTILABEL.metrics(torch.stack([coins, noise], 1), labels)["f1"]
        tokens = torch.zeros(200, 5, dtype=torch.int64).where(torch.arange(5) < lengths[:, None], IGNORED)
        # Tokens of one sequence are alike: their margin is the sequence's.
        logits = torch.stack([x, torch.zeros_like(x)], 1)[:, None].repeat(1, 5, 1)
        perplexity = NEXT.metrics(logits, tokens)["perplexity"]
        # A label that is always right and one that is a coin: TP = 3/4 an example, and half a label wrong.
        truths = {"r2": 0.5, "f1": 1.5 / 2.0, "perplexity": math.exp(0.8060591833)}
        for name, found in (("r2", r2), ("f1", f1), ("perplexity", perplexity)):
            covered[name] += found.low <= truths[name] <= found.high
    assert all(abs(count / 400 - 0.95) < 0.05 for count in covered.values()), covered


def test_weights_and_smoothing_of_two_classes() -> None:
    task = Binary(kind="binary", positive_weight=3.0, label_smoothing=0.2)
    found = task.loss(column(0.7, 0.7).double(), torch.tensor([1, 0]))
    high, low = math.log1p(math.exp(-0.7)), math.log1p(math.exp(0.7))
    assert found.tolist() == pytest.approx([3 * (0.9 * high + 0.1 * low), 0.1 * high + 0.9 * low], rel=1e-7)


# --- by client ------------------------------------------------------------------------------------------------------------

SPREAD: list[tuple[Task, Tensor, Tensor]] = [
    (BINARY, column(2.0, -1.0, 0.5, -3.0, 1.0, -0.5), torch.tensor([1, 1, 0, 0, 1, 0])),
    (REGRESSION, column(2.0, -1.0, 0.5, -3.0, 1.0, -0.5), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])),
    (
        MULTILABEL,
        torch.tensor([[2.0, -1.0], [1.0, 1.0], [0.5, -1.0], [1.0, -1.0], [-1.0, -1.0], [1.0, 1.0]]),
        torch.tensor([[1, 0], [0, 1], [1, 0], [1, 1], [0, 1], [1, 1]]),
    ),
    (
        NEXT,
        torch.linspace(-2, 3, 6 * 2 * 3).sin().view(6, 2, 3),
        torch.tensor([[0, 1], [2, IGNORED], [1, 1], [IGNORED, 2], [0, 0], [IGNORED, IGNORED]]),
    ),
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
    (REGRESSION, column(2.0, -1.0), torch.tensor([1.5, -3.0])),
    (HUBER, column(2.0, -1.0), torch.tensor([1.8, -3.0])),
    (MULTILABEL, torch.tensor([[0.3, -1.0, 2.0], [4.0, 0.0, 1.0]]), torch.tensor([[1, 0, 0], [1, 1, 1]])),
    (NEXT, torch.linspace(-2, 3, 2 * 2 * 3).view(2, 2, 3), torch.tensor([[0, IGNORED], [1, 2]])),
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
    logs = task.log_probabilities(outputs.numpy())
    if logs is not None:
        found = np.exp(logs)
        np.testing.assert_allclose(found.sum(axis=-1), 1.0)
        np.testing.assert_allclose(found[np.arange(len(y)), y], special.expit(task.confidence(outputs.numpy(), y.numpy())))


# --- records --------------------------------------------------------------------------------------------------------------


def test_a_record_keeps_which_metric_is_the_headline_though_keys_are_sorted() -> None:
    metrics = {name: Interval(value=k, low=k, high=k, n=3) for k, name in enumerate(("rmse", "mae", "loss"))}
    fields = dict.fromkeys(Result.model_fields) | {"rounds": 1, "parameters": 2, "engine": "", "hides_updates": False}
    fields |= {
        "clients": [],
        "bytes_up": 1,
        "bytes_down": 1,
        "bytes_plain": 1,
        "evaluation": Evaluation(metrics=metrics, clients=None),
        "groups": {},
        "clusters": (),
        "cluster_of": (),
    }
    result = Result.model_validate({**fields, "train": 0.5})
    written = result.model_dump()
    assert written["train_rmse"] == 0.5
    assert list(written["evaluation"]) == ["rmse", "mae", "loss", "clients"]
    sorted_keys = {**dict(sorted(written.items())), "evaluation": dict(sorted(written["evaluation"].items()))}
    read = Result.model_validate(sorted_keys)
    assert (read.evaluation.name, read.evaluation.headline.value, read.train) == ("rmse", 0, 0.5)
    assert read.evaluation.metrics == metrics
