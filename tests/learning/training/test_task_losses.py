"""Each task's loss in both engines, beside autograd's account of one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from engines import FLAT, VOCABULARY, WORDS, Loss, built, by_autograd, cohort_of, farthest, plan, settings, starting_point
from torch import Tensor, nn
from torch.nn import functional

from privfl.errors import ModelError
from privfl.learning.models.lstm import Lstm
from privfl.learning.models.transformer import Transformer
from privfl.learning.tasks import Task
from privfl.learning.tasks.binary import Binary
from privfl.learning.tasks.classification import Classification
from privfl.learning.tasks.multilabel import Multilabel
from privfl.learning.tasks.next_token import NextToken
from privfl.learning.tasks.regression import Regression
from privfl.learning.training import LocalTask, _cohort
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.vectors import trained


@dataclass(frozen=True)
class Case:
    """A task, its loss written out once more, a model, and labels for the examples of a pool.

    Args:
        task: what is trained.
        loss: of one example, by PyTorch's own functions with other words.
        shape: of an input.
        build: the model.
        labels: how many examples, generator -> labels.
    """

    task: Task
    loss: Loss
    shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    labels: Callable[[int, torch.Generator], Tensor]

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        return built(self.shape, self.build, dtype)

    def cohort(self, sizes: tuple[int, ...] = (9, 2, 6), dtype: torch.dtype = torch.float64) -> list[LocalTask]:
        tasks = cohort_of(self.shape, sizes, dtype)
        y = self.labels(len(tasks[0].y), torch.Generator().manual_seed(5))
        return [replace(task, y=y) for task in tasks]


def flat(outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs))


def classes(count: int, draw: torch.Generator) -> Tensor:
    return torch.randint(3, (count,), generator=draw)


def zeros_and_ones(count: int, draw: torch.Generator) -> Tensor:
    return torch.randint(2, (count,), generator=draw)


def numbers(count: int, draw: torch.Generator) -> Tensor:
    return torch.randn(count, generator=draw) * 3


def rows_of_labels(count: int, draw: torch.Generator) -> Tensor:
    return torch.randint(2, (count, 4), generator=draw)


def label_by_label(outputs: Tensor, y: Tensor) -> Tensor:
    sign, weights = 2 * y[0] - 1, torch.tensor([1.0, 2.0, 1.0, 0.5], dtype=outputs.dtype)
    losses = -0.9 * functional.logsigmoid(sign * outputs[0]) - 0.1 * functional.logsigmoid(-sign * outputs[0])
    return (losses * torch.where(y[0] == 1, weights, torch.ones_like(weights))).sum() / 4


def sequences(count: int, draw: torch.Generator) -> Tensor:
    """Sequences of every length, 0 among them; padding is -1."""
    y = torch.randint(VOCABULARY, (count, *WORDS), generator=draw)
    return y.where(torch.arange(WORDS[0]) < torch.arange(count)[:, None] % (WORDS[0] + 1), -1)


def token_by_token(outputs: Tensor, y: Tensor) -> Tensor:
    found = [-outputs[0, place].log_softmax(0)[token] for place, token in enumerate(y[0].tolist()) if token != -1]
    return sum(found, outputs.sum() * 0) / max(len(found), 1)


def huber(outputs: Tensor, y: Tensor) -> Tensor:
    error = (outputs[0, 0] - y[0]).abs()
    return error**2 / 2 if error <= 0.5 else 0.5 * (error - 0.25)


def weighed(outputs: Tensor, y: Tensor) -> Tensor:
    """−w ((1 − ε/2) log σ(±z) + ε/2 log σ(∓z)), w = 3 for ones, ε = 0.2."""
    z, sign = outputs[0, 0], 2 * y[0] - 1
    loss = -0.9 * functional.logsigmoid(sign * z) - 0.1 * functional.logsigmoid(-sign * z)
    return loss * (1 + 2 * y[0])


def smoothed(outputs: Tensor, y: Tensor) -> Tensor:
    """−Σ_c w_c q_c log p_c, with q = 0.8 for the class and 0.2 / 3 more for each."""
    weights = torch.tensor([1.0, 2.5, 0.5], dtype=outputs.dtype)
    target = 0.8 * functional.one_hot(y, 3).to(outputs) + 0.2 / 3
    return -(weights * target * outputs.log_softmax(1)).sum()


CASES: dict[str, Case] = {
    "classification, weighted and smoothed": Case(
        Classification(kind="classification", weights=(1.0, 2.5, 0.5), label_smoothing=0.2), smoothed, FLAT, flat(3), classes
    ),
    "binary": Case(
        Binary(kind="binary"), lambda z, y: functional.softplus(-(2 * y - 1) * z[:, 0]).sum(), FLAT, flat(1), zeros_and_ones
    ),
    "binary, weighted and smoothed": Case(
        Binary(kind="binary", positive_weight=3.0, label_smoothing=0.2), weighed, FLAT, flat(1), zeros_and_ones
    ),
    "regression": Case(Regression(kind="regression"), lambda z, y: ((z[:, 0] - y) ** 2).sum(), FLAT, flat(1), numbers),
    "regression by Huber's loss": Case(Regression(kind="regression", error="huber", delta=0.5), huber, FLAT, flat(1), numbers),
    "multilabel": Case(
        Multilabel(kind="multilabel", positive_weights=(1.0, 2.0, 1.0, 0.5), label_smoothing=0.2),
        label_by_label,
        FLAT,
        flat(4),
        rows_of_labels,
    ),
    "next token": Case(
        NextToken(kind="next_token", padding=-1),
        token_by_token,
        WORDS,
        lambda: nn.Sequential(nn.Embedding(VOCABULARY, 5), nn.Linear(5, VOCABULARY)),
        sequences,
    ),
}
LETTERS: dict[str, Case] = {
    kind: Case(NextToken(kind="next_token", padding=-1), token_by_token, WORDS, build, sequences)
    for kind, build in {
        "lstm": lambda: Lstm(kind="lstm", embedding=3, hidden=4, layers=2).build(WORDS, VOCABULARY),
        "transformer": lambda: Transformer(kind="transformer", width=4, heads=2, layers=2).build(WORDS, VOCABULARY),
    }.items()
}
PLANS = {"private": plan(), "plain": NoPlan(), "noisy": plan(noise_multiplier=0.8, batch_size=3)}


@pytest.mark.parametrize("of", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("name", [*CASES, *LETTERS])
def test_the_fused_engine_trains_what_autograd_finds(name: str, of: Plan) -> None:
    case = {**CASES, **LETTERS}[name]
    assert farthest(case.model, case.cohort(), of, learned=(case.task, case.loss), momentum=0.5) < 1e-10


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("name", [*CASES, "transformer"])
def test_the_reference_trains_what_autograd_finds(name: str, of: Plan) -> None:
    """Its updates are float32; the weights that it leaves in its model are not. It knows no LSTM."""
    case, config = {**CASES, **LETTERS}[name], settings(of, momentum=0.5)
    model, start_D = case.model(), starting_point(case.model())
    trainer = Opacus(model, config, of, case.task)
    for task in case.cohort():
        trainer.train(start_D, [task])
        found_D = torch.cat([value.detach().flatten() for value in trained(model).values()]) - start_D
        expected_D = by_autograd(case.model(), start_D, task, of, config, case.loss)
        assert float((found_D - expected_D).norm() / expected_D.norm()) < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_the_engines_agree_under_noise(name: str) -> None:
    case, of = CASES[name], plan(noise_multiplier=0.8, batch_size=3)
    start_D, tasks = starting_point(case.model(torch.float32)), case.cohort(dtype=torch.float32)
    results = [kind(case.model(torch.float32), settings(of), of, case.task).train(start_D, tasks) for kind in (Opacus, Fused)]
    for one, other in zip(*results, strict=True):
        assert float((one.delta_D - other.delta_D).norm() / other.delta_D.norm()) < 1e-5
        assert (one.event, one.clipped_share) == (other.event, other.clipped_share)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_padding_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does an empty batch, which is filled up with zeros that no label may stand in the way of."""
    case, of = CASES[name], plan(batch_size=1, local_steps=6)
    start_D, results = starting_point(case.model()), []
    for padded in (False, True):
        monkeypatch.setattr(_cohort, "pads", lambda _, padded=padded: padded)
        results.append(Fused(case.model(), settings(of), of, case.task).train(start_D, case.cohort()))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one.delta_D, other.delta_D, rtol=1e-9, atol=1e-12)
        assert one.loss == pytest.approx(other.loss, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_replacing_one_example_changes_nobody_elses_loss(name: str) -> None:
    case = CASES[name]
    draw = torch.Generator().manual_seed(2)
    outputs, y = case.model()(case.cohort()[0].x[1:6]), case.labels(5, draw)
    before = case.task.loss(outputs, y)
    assert before.shape == (5,)
    other, labels = outputs.clone(), y.clone()
    other[2], labels[2] = outputs[4] * -3, y[0]
    after = case.task.loss(other, labels)
    assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]])
    rows = torch.stack([case.loss(outputs[i : i + 1], y[i : i + 1]).reshape(()) for i in range(5)])
    assert torch.allclose(before, rows, rtol=1e-12)


class OverTheBatch(Classification):
    """Cross-entropy divided by the weights that are in the batch, as PyTorch's mean is."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        weights = outputs.new_tensor([1.0, 2.0, 3.0])
        return functional.cross_entropy(outputs, y, weight=weights, reduction="none") / weights[y].sum()


class OverTheTokens(NextToken):
    """Divided by the tokens of the batch, as PyTorch's mean is: sequences of one length do not show it."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self._summed(outputs, y, 0.0) / self._lengths(y).double().mean()


@pytest.mark.parametrize("engine", [Fused, Opacus])
def test_a_loss_that_real_labels_alone_show_to_look_at_the_batch_is_refused(engine: type[Fused] | type[Opacus]) -> None:
    case, task = CASES["next token"], OverTheTokens(kind="my_lab.task", padding=-1)
    with pytest.raises(ModelError, match="depends on the other examples"):
        engine(case.model(), settings(plan()), plan(), task).train(starting_point(case.model()), case.cohort())


class Reduced(Classification):
    """A mean over the batch."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, y)


@pytest.mark.parametrize("engine", [Fused, Opacus])
@pytest.mark.parametrize(
    ("task", "says"), [(OverTheBatch, "depends on the other examples"), (Reduced, r"gives shape \(\) for")]
)
def test_a_loss_that_looks_at_the_batch_is_refused(engine: type[Fused] | type[Opacus], task: type[Task], says: str) -> None:
    case = next(iter(CASES.values()))
    with pytest.raises(ModelError, match=says):
        engine(case.model(), settings(plan()), plan(), task(kind="my_lab.task")).train(
            starting_point(case.model()), case.cohort()
        )
