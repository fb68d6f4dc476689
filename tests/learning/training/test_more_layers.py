"""Layers with PyTorch's own defaults, layers of the user's own and in-place sums train as autograd finds, or say what to do."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import opacus
import pytest
import torch
from engines import (
    CLASSES,
    FLAT,
    IMAGE,
    LINE,
    VOCABULARY,
    WORDS,
    built,
    by_autograd,
    choice_of,
    cohort_of,
    farthest,
    plan,
    settings,
    starting_point,
)
from more_models import TRAINED, Attending, OwnToken, Sequences, cells, heads
from torch import Tensor, nn
from torch.nn import functional

from privfl.errors import ModelError
from privfl.learning.training import _cohort
from privfl.learning.training._rules import convolution, linear
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed

PLANS: list[Plan] = [plan(), plan(scheme="per_layer"), NoPlan()]
IDS = ["private", "per_layer", "plain"]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """The sizes are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def far(shape: tuple[int, ...], build: Callable[[], nn.Module], of: Plan) -> float:
    tasks = cohort_of(shape, dtype=torch.float64)
    return farthest(lambda: built(shape, build, torch.float64), tasks, of)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("of", [PLANS[0], PLANS[2]], ids=["private", "plain"])
@pytest.mark.parametrize("name", TRAINED)
def test_training_is_what_autograd_finds_example_by_example(name: str, of: Plan) -> None:
    assert far(*TRAINED[name], of) < 1e-10


SEVERAL = [
    "gru, packed",
    "lstm, both ways, from a state",
    "heads, widths of their own",
    "heads, twice",
    "a token",
    "weight norm",
]


@pytest.mark.parametrize("name", SEVERAL)
def test_layers_may_be_clipped_one_by_one(name: str) -> None:
    assert far(*TRAINED[name], PLANS[1]) < 1e-10


@pytest.mark.parametrize("of", PLANS, ids=IDS)
def test_a_convolution_used_twice_by_the_library_is_the_same(of: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "library_pays", lambda *_: True)
    assert far(*TRAINED["convolution, twice"], of) < 1e-10


@pytest.mark.parametrize("name", ["gru, packed", "heads, widths of their own", "a token", "cell"])
def test_padded_batches_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cohort, "pads", lambda _: True)
    assert far(*TRAINED[name], plan(batch_size=2)) < 1e-10


# --- in place ---------------------------------------------------------------------------------------------------------


class InPlace(nn.Module):
    """Adds to what a layer gives, and cuts it off, in place."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.out = nn.Linear(6, 6), layer, nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        before = self.first(x)
        before *= 2.0
        h = self.layer(before.view(-1, 2, 3))
        h += before.mean(1).view(-1, *[1] * (h.dim() - 1))
        functional.relu(h, inplace=True)
        logits: Tensor = self.out(h.flatten(1))
        return logits


class First(nn.Module):
    """Of what a layer gives, the first."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.layer(*[x] * self.times)[0]
        return given


class Recalled(nn.Module):
    """Words made of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table((x > 0).long())
        return found


IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 3),
    "convolution": lambda: nn.Conv1d(2, 2, 2),
    "images": lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv2d(1, 2, 2, padding=1), nn.Flatten(2)),
    "group norm": lambda: nn.GroupNorm(1, 2),
    "layer norm": lambda: nn.LayerNorm(3),
    "embedding": Recalled,
    "lstm": lambda: First(nn.LSTM(3, 4, batch_first=True)),
    "lstm, both ways": lambda: First(nn.LSTM(3, 4, batch_first=True, bidirectional=True)),
    "gru, last": lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Flatten(1, 2), First(nn.GRU(3, 4, batch_first=True))),
    "heads": lambda: First(nn.MultiheadAttention(3, 1, batch_first=True), 3),
    "vmapped": lambda: nn.PReLU(),
    "vmapped, transposed": lambda: nn.ConvTranspose1d(2, 2, 2),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", IN_PLACE)
def test_a_model_may_write_into_what_a_layer_gives(name: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its batches are, so that what is chosen is what trains; on a GPU's path batches are of one length."""
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)

    def build() -> nn.Module:
        return InPlace(IN_PLACE[name]())

    # PyTorch's own LSTM keeps what it gives, in floats on a CPU.
    assert "lstm" in name or choice_of(built(FLAT, build), torch.zeros(1, 6)).engine == "fused"
    for of in (plan(batch_size=2), NoPlan()):
        assert far(FLAT, build, of) < 1e-10


@pytest.mark.parametrize("of", [plan(batch_size=2), NoPlan()], ids=["private", "plain"])
def test_what_a_rule_does_not_bear_is_found_before_it_is_chosen(of: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only batches of one length make it raise, as those without privacy are: the rule's own mutant."""
    monkeypatch.setattr(linear, "whole", lambda x: x)

    def build() -> nn.Module:
        return InPlace(nn.Linear(3, 3))

    with pytest.raises(ModelError, match="modified inplace"):
        choice_of(built(FLAT, build), torch.zeros(1, 6), of, "fused")
    with pytest.raises(ModelError, match="modified inplace"):
        far(FLAT, build, of)


@pytest.mark.parametrize("library", [False, True])
def test_a_residual_block_trains_on_either_path(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "library_pays", lambda *_: library)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.relu, self.out = nn.ReLU(inplace=True), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            identity = self.relu(self.first(x))
            h = self.second(identity)
            h += identity
            logits: Tensor = self.out(self.relu(h).mean((2, 3)))
            return logits

    assert far(IMAGE, Block, plan()) < 1e-10
    assert far(IMAGE, Block, NoPlan()) < 1e-10


# --- what draws -------------------------------------------------------------------------------------------------------


class OwnScale(nn.Module):
    """A parameter of its own and dropout in one module, by a layer and by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.drop, self.out = nn.Parameter(torch.ones(6)), nn.Dropout(0.4), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.drop(x * self.scale))
        return logits


DRAWING: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "own parameter": (FLAT, OwnScale),
    "a token": (LINE, lambda: OwnToken(0.3)),
    "heads": (WORDS, lambda: Attending(heads(dropout=0.3))),
    "encoder layer": (
        WORDS,
        lambda: nn.Sequential(
            nn.Embedding(VOCABULARY, 8),
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
            nn.Flatten(),
            nn.Linear(40, CLASSES),
        ),
    ),
}


@pytest.mark.parametrize("name", ["own parameter", "heads"])
def test_dropout_draws_what_the_reference_draws_for_that_client(name: str) -> None:
    """Without privacy the reference is PyTorch itself, to which the client's stream is lent.

    Its encoder draws as well, for the same numbers in another order.
    """
    shape, build = DRAWING[name]
    start_D, tasks, of = starting_point(built(shape, build)), cohort_of(shape), NoPlan()
    expected = Opacus(built(shape, build), settings(of), of).train(start_D, tasks)
    found = Fused(built(shape, build), settings(of), of).train(start_D, tasks)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.delta_D, other.delta_D, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*DRAWING, "lstm", "gru"])
def test_dropout_under_a_promise_is_each_clients_own(name: str) -> None:
    """The same whatever PyTorch's generator is at and whoever trains beside; another for other streams."""
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU}
    usual = (LINE, lambda: Sequences(cells(kinds[name], dropout=0.5)))
    shape, build = DRAWING.get(name, usual)
    start_D, tasks, of = starting_point(built(shape, build)), cohort_of(shape), plan(batch_size=2)

    def deltas(tasks: Any, seed: int) -> list[Tensor]:
        module = built(shape, build)
        torch.manual_seed(seed)
        return [one.delta_D for one in Fused(module, settings(of), of).train(start_D, tasks)]

    every, again = deltas(tasks, 1), deltas(tasks[1:], 2)
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(every[1:], again, strict=True))
    strangers = deltas([replace(task, seed=Seed(4) / "client" / task.client) for task in tasks], 1)
    assert not any(torch.allclose(one, other, rtol=1e-3) for one, other in zip(every, strangers, strict=True))
    assert choice_of(built(shape, build), tasks[0].x[:1]).engine == "fused"


# --- what says what to do ---------------------------------------------------------------------------------------------


class Stepping(nn.Module):
    """What comes after a recurrent layer, or attention, of PyTorch or of Opacus."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        given = x.view(len(x), 10, 3)[..., [0, 1, 2, 0]]
        found = self.layer(given, given, given) if "Attention" in type(self.layer).__name__ else self.layer(given)
        logits: Tensor = self.out(found[0][:, -1])
        return logits


REPLACED: dict[str, Callable[[Any], nn.Module]] = {
    "LSTM": lambda of: of(4, 4, batch_first=True),
    "GRU": lambda of: of(4, 4, batch_first=True),
    "RNN": lambda of: of(4, 4, batch_first=True),
    "MultiheadAttention": lambda of: of(4, 2, batch_first=True),
}


@pytest.mark.parametrize("name", REPLACED)
def test_opacus_names_its_class_for_a_layer_and_trains_that(name: str) -> None:
    of, tasks = plan(noise_multiplier=0.8), cohort_of(LINE)
    words = rf"layer is an nn\.{name}, which Opacus' hooks do not bear; put opacus\.layers\.DP{name} in its place"
    with pytest.raises(ModelError, match=words):
        Opacus(built(LINE, lambda: Stepping(REPLACED[name](getattr(nn, name)))), settings(of), of)

    def theirs() -> nn.Module:
        return Stepping(REPLACED[name](getattr(opacus.layers, f"DP{name}")))

    start_D = starting_point(built(LINE, theirs))
    for task, one in zip(tasks, Opacus(built(LINE, theirs), settings(of), of).train(start_D, tasks), strict=True):
        expected_D = by_autograd(built(LINE, theirs), start_D, task, of, settings(of))
        assert float((one.delta_D - expected_D).norm() / expected_D.norm()) < 1e-4


@pytest.mark.parametrize(
    ("layer", "out"),
    [
        (nn.TransformerEncoderLayer(8, 2, 12), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)),
        (First(nn.LSTM(8, 8)), First(nn.LSTM(8, 8, batch_first=True))),
        (First(nn.MultiheadAttention(8, 2), 3), First(nn.MultiheadAttention(8, 2, batch_first=True), 3)),
    ],
)
def test_a_batch_that_comes_second_by_default_is_told_to_come_first(layer: nn.Module, out: nn.Module) -> None:
    """Batches come first into layers that want them second; the way out that is named is taken, and trains."""

    def model(layer: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Embedding(VOCABULARY, 8), layer, nn.Flatten(), nn.Linear(40, CLASSES))

    of, tasks = plan(), cohort_of(WORDS)
    with pytest.raises(ModelError, match=r"batch_first=True") as caught:
        Fused(model(layer), settings(of), of).train(starting_point(model(layer)), tasks)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="batch_first=True"):
        Fused(model(layer), settings(NoPlan()), NoPlan()).train(starting_point(model(layer)), tasks)
    assert Fused(model(out), settings(of), of).train(starting_point(model(out)), tasks)


class NothingGiven(nn.Module):
    """A parameter that is asked for, as embeddings of positions are."""

    def __init__(self, rows: int | None) -> None:
        super().__init__()
        self.own, self.rows, self.out = OwnNumbers(), rows, nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(x + (self.own() if self.rows is None else self.own(x)))
        return logits


class OwnNumbers(nn.Module):
    """For each example the same, or for none."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor | None = None) -> Tensor:
        return self.numbers if x is None else self.numbers.expand(len(x), -1)


def test_a_layer_that_is_given_nothing_is_told_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"OwnNumbers, which has no rule, is given no tensor; .*\.expand"):
        far(FLAT, lambda: NothingGiven(None), plan())
    assert far(FLAT, lambda: NothingGiven(1), plan()) < 1e-10
