"""Figures with intervals that hold what they say."""

from __future__ import annotations

import copy
import math
import time

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from privfl.errors import ModelError
from privfl.learning import evaluation
from privfl.learning.evaluation import client_spread, logits, prepared, spread
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.records import Interval, Spread
from privfl.vectors import to_vector


def accuracy(logits_NC: Tensor, y_N: Tensor, level: float = 0.95) -> Interval:
    return CLASSIFICATION.metrics(logits_NC, y_N, level)["accuracy"]


def mean_loss(logits_NC: Tensor, y_N: Tensor, level: float = 0.95) -> Interval:
    return CLASSIFICATION.metrics(logits_NC, y_N, level)["loss"]


def answers(correct: list[bool]) -> tuple[Tensor, Tensor]:
    """Logits of two classes that are right where they should be."""
    y_N = torch.arange(len(correct)) % 2
    guess_N = torch.where(torch.tensor(correct), y_N, 1 - y_N)
    return nn.functional.one_hot(guess_N, 2).float(), y_N


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    # The textbook's values of the exact interval at 95 %.
    [(0, 10, 0.0, 0.30850), (10, 10, 0.69150, 1.0), (5, 10, 0.18709, 0.81291), (8, 10, 0.44390, 0.97479), (0, 1, 0.0, 0.975)],
)
def test_accuracy_with_the_interval_of_clopper_and_pearson(correct: int, count: int, low: float, high: float) -> None:
    found = accuracy(*answers([True] * correct + [False] * (count - correct)))
    assert (found.value, found.n, found.level) == (correct / count, count, 0.95)
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-5)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_interval_of_accuracy_covers_at_every_true_rate(level: float) -> None:
    """Exact: the probability of all outcomes whose interval holds p, for each of 99 values of p."""
    count = 25
    found = [accuracy(*answers([True] * k + [False] * (count - k)), level) for k in range(count + 1)]
    for p in np.linspace(0.01, 0.99, 99):
        chances = stats.binom.pmf(range(count + 1), count, p)
        covered = sum(chance for chance, one in zip(chances, found, strict=True) if one.low <= p <= one.high)
        assert covered >= level


def test_mean_loss_by_hand() -> None:
    logits_NC = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(7)]])
    y_N = torch.tensor([0, 0, 0])
    losses = np.array([math.log(2), math.log(4 / 3), math.log(8)])
    found = mean_loss(logits_NC, y_N)
    half = 1.959963984540054 * losses.std(ddof=1) / math.sqrt(3)
    assert found.value == pytest.approx(losses.mean(), rel=1e-6)
    assert [found.low, found.high] == pytest.approx([losses.mean() - half, losses.mean() + half], rel=1e-6)
    assert mean_loss(logits_NC, y_N, level=0.5).high < found.high
    alone = mean_loss(logits_NC[:1], y_N[:1])
    assert [alone.low, alone.value, alone.high] == pytest.approx([math.log(2)] * 3)


def test_the_interval_of_the_loss_covers() -> None:
    """400 samples of 400 losses; coverage is within 0.95 ± 0.05, which is 4.6 standard errors (false alarm 4e-6)."""
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(400, 400, generator=generator, dtype=torch.float64)
    truth = float(np.log1p(np.exp(-np.linspace(-8, 8, 160_001))) @ stats.norm.pdf(np.linspace(-8, 8, 160_001)) * 1e-4)
    covered = 0
    for margin_N in margins:
        found = mean_loss(torch.stack([margin_N, torch.zeros(400)], 1), torch.zeros(400, dtype=torch.int64))
        covered += found.low <= truth <= found.high
    assert abs(covered / 400 - 0.95) < 0.05


def test_spread_over_clients() -> None:
    logits_NC, y_N = answers([True, True, True, False, False, False, True, False])
    # Client 0 has three of four, client 2 none of two, client 3 one of two; client 1 owns nothing and is left out.
    owner_N = np.array([0, 0, 0, 0, 2, 2, 3, 3])
    found = client_spread(CLASSIFICATION, logits_NC, y_N, owner_N)
    assert found == spread([0.75, 0.0, 0.5])
    assert (found.minimum, found.median, found.maximum) == (0.0, 0.5, 0.75)
    # Who sits where does not matter.
    order = np.array([7, 2, 5, 0, 3, 6, 1, 4])
    assert client_spread(CLASSIFICATION, logits_NC[order], y_N[order], owner_N[order]) == found
    assert client_spread(CLASSIFICATION, logits_NC[:0], y_N[:0], owner_N[:0]) is None


def test_percentiles() -> None:
    assert spread(np.arange(101.0)) == Spread(minimum=0, p10=10, median=50, p90=90, maximum=100, mean=50)
    assert spread([0.25]) == Spread(minimum=0.25, p10=0.25, median=0.25, p90=0.25, maximum=0.25, mean=0.25)


def test_logits_are_those_of_the_vector_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(3, 8), nn.Linear(8, 2)
    model = nn.Sequential(first, nn.Dropout(0.9), last)
    vector_D, x = to_vector(model), torch.randn(2500, 3)
    with torch.no_grad():
        expected = last(first(x))
        first.weight.zero_()
    found = logits(model.train(), vector_D, x)
    # 2,500 examples go through in three batches.
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found.requires_grad
    assert logits(model, vector_D, x[:0]).shape == (0, 2)


@pytest.mark.parametrize("value", [math.inf, math.nan, 3e38])
def test_a_model_that_diverged_is_said_in_one_line(value: float) -> None:
    model = nn.Linear(3, 2)
    vector_D = torch.full_like(to_vector(model), value)
    with pytest.raises(ModelError, match=r"outputs are not finite, training diverged; lower training\.lr"):
        mean_loss(logits(model, vector_D, torch.ones(4, 3)), torch.zeros(4, dtype=torch.int64))


def test_an_example_that_overflows_is_wrong_and_ends_nothing() -> None:
    logits_NC = torch.tensor([[2.0, 0.0], [math.nan, 0.0], [0.0, math.inf], [0.0, 1.0]])
    y_N = torch.tensor([0, 0, 1, 1])
    assert accuracy(logits_NC, y_N).value == 0.5
    assert mean_loss(logits_NC, y_N).n == 2


def test_a_model_is_evaluated_in_its_fastest_form_to_the_same_outputs() -> None:
    """Channels last, but for group norms; no inputs are so large that a float could not tell."""
    for norm, contiguous in ((nn.Identity(), False), (nn.GroupNorm(2, 4), True)):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), norm, nn.Sequential(nn.Tanh(), nn.MaxPool2d(2)), nn.Flatten(), nn.Linear(36, 5)
        )
        x = torch.randn(7, 3, 8, 8)
        expected = model(x).detach()
        form = prepared(copy.deepcopy(model))
        kernels = form.get_parameter("0.weight")
        assert kernels.is_contiguous() == contiguous
        assert not any(type(layer) is nn.Tanh for layer in form.modules())
        assert torch.allclose(logits(form, to_vector(model), x), expected, rtol=0.0, atol=1e-6)
        form(x).sum().backward()
        model(x).sum().backward()
        assert torch.allclose(form.get_parameter("0.weight").grad, model.get_parameter("0.weight").grad, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


class Remembering(nn.Module):
    """Keeps what it is given until the end of its pass, as models in the wild do."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        time.sleep(1e-3)
        return self.seen * 2.0


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_threads_do_not_show_in_the_outputs(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they share a model; a thread that shared would return its neighbour's outputs."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(evaluation, "_BATCH", 7)
    torch.manual_seed(0)
    model = nn.Sequential(Remembering(), nn.Linear(5, 3), nn.Tanh())
    x = torch.randn(200, 5)
    expected = torch.cat([model(batch).detach() for batch in torch.split(x, 7)])
    found = logits(model, to_vector(model), x)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_an_error_in_a_thread_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    model = nn.Linear(5, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        logits(model, to_vector(model), torch.randn(1000, 4))
