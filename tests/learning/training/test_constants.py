"""Frozen parameters and buffers are constants: the rest is trained as autograd finds, and what writes them is refused."""

from collections.abc import Callable, Iterator
from typing import Any

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
from torch import Tensor, nn
from torch.nn import functional

from privfl.errors import ModelError
from privfl.learning.training import Trainer, _constants, opacus
from privfl.learning.training._rules import convolution
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.vectors import Layout, constants

ENGINES: list[type[Trainer]] = [Opacus, Fused]
PLANS: list[Plan] = [plan(), plan(scheme="per_layer"), NoPlan()]
IDS = ["private", "per_layer", "plain"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The sizes are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class LowRank(nn.Module):
    """A constant matrix, and beside it a product of two small ones that are trained (Hu et al. 2022)."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False)
        base = torch.randn(5, 6)
        if buffer:
            self.register_buffer("base", base)
        else:
            self.base = nn.Parameter(base, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = functional.linear(x, self.base) + self.b(self.a(x))
        return found


class Causal(nn.Module):
    """Attention with a mask and angles in buffers, one of which no file holds."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(VOCABULARY, 8), nn.Linear(8, CLASSES)
        self.heads = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool).triu(1))
        self.register_buffer("angles", torch.linspace(0, 3, 40).view(5, 8).sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        here = self.table(x) + self.angles
        logits: Tensor = self.out(self.heads(here, here, here, attn_mask=self.mask)[0].mean(1))
        return logits


def frozen(model: nn.Module, *names: str) -> nn.Module:
    """The model with the parameters frozen that begin, or end, so."""
    for name, parameter in model.named_parameters():
        if name.startswith(names) or name.endswith(names):
            parameter.requires_grad_(False)
    return model


def _words(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Embedding(VOCABULARY, 8), *layers, nn.Flatten(), nn.Linear(40, CLASSES))


class Last(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, cells: nn.RNNBase) -> None:
        super().__init__()
        self.first, self.cells = nn.Linear(15, 6), cells

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.cells(self.first(x))[0][:, -1]
        return last


def _images(groups: int = 1) -> nn.Module:
    layers = (nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 4, 3, groups=groups), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(80, CLASSES))


def _encoder(dropout: float = 0.0) -> nn.Module:
    return _words(nn.TransformerEncoderLayer(8, 2, 12, dropout=dropout, batch_first=True))


def _lstm(layers: int = 2, **changes: Any) -> nn.LSTM:
    return nn.LSTM(6, CLASSES, layers, batch_first=True, **changes)


def _transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose1d(2, 2, 3), nn.Flatten(), nn.Linear(34, CLASSES))


MODELS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "last layer": (FLAT, lambda: frozen(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES)), "0.")),
    "first layer": (FLAT, lambda: frozen(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES)), "2.")),
    "low rank": (FLAT, lambda: nn.Sequential(LowRank(False), nn.Linear(5, CLASSES))),
    "low rank, a buffer": (FLAT, lambda: nn.Sequential(LowRank(True), nn.Linear(5, CLASSES))),
    "causal": (WORDS, Causal),
    "causal, by a frozen table": (WORDS, lambda: frozen(Causal(), "table")),
    "images, biases alone": (IMAGE, lambda: frozen(_images(), "weight")),
    "images, weights alone": (IMAGE, lambda: frozen(_images(2), "bias")),
    "images, through a frozen convolution": (IMAGE, lambda: frozen(_images(), "3.", "1.")),
    "encoder, biases alone": (WORDS, lambda: frozen(_encoder(), "weight")),
    "encoder, weights of attention": (WORDS, lambda: frozen(_encoder(), "bias", "0.", "1.linear")),
    "lstm, biases alone": (LINE, lambda: frozen(Last(_lstm()), "weight", "weight_ih_l1")),
    "lstm, of the state alone": (LINE, lambda: frozen(Last(_lstm(1)), "first", "cells.bias", "cells.weight_ih")),
    "gru, frozen": (LINE, lambda: frozen(Last(nn.GRU(6, CLASSES, batch_first=True)), "cells")),
    "lstm, frozen, with dropout": (LINE, lambda: frozen(Last(_lstm(dropout=1.0)), "cells.weight")),
    "layer without a rule": (LINE, lambda: frozen(_transposed(), "0.weight")),
}


@pytest.mark.parametrize("of", PLANS, ids=IDS)
@pytest.mark.parametrize("name", MODELS)
def test_what_requires_a_gradient_is_trained_as_autograd_finds(name: str, of: Plan) -> None:
    shape, build = MODELS[name]
    module = built(shape, build, torch.float64)
    assert Layout.of(module).size < sum(value.numel() for value in module.parameters()) or "causal" in name or "buffer" in name
    tasks = cohort_of(shape, dtype=torch.float64)
    assert farthest(lambda: built(shape, build, torch.float64), tasks, of) < 1e-10


@pytest.mark.parametrize("of", PLANS, ids=IDS)
@pytest.mark.parametrize("name", [name for name in MODELS if "images" in name])
def test_so_are_convolutions_by_the_library(name: str, of: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "library_pays", lambda *_: True)
    test_what_requires_a_gradient_is_trained_as_autograd_finds(name, of)


@pytest.mark.parametrize("of", [plan(noise_multiplier=0.8), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("name", ["last layer", "low rank", "low rank, a buffer", "images, through a frozen convolution"])
def test_the_reference_trains_it_too(name: str, of: Plan) -> None:
    shape, build = MODELS[name]
    config, start_D, tasks = settings(of), starting_point(built(shape, build)), cohort_of(shape)
    module = built(shape, build)
    before = {key: value.clone() for key, value in constants(module).items()}
    for task, result in zip(tasks, Opacus(module, config, of).train(start_D, tasks), strict=True):
        expected_D = by_autograd(built(shape, build), start_D, task, of, config)
        assert float((result.delta_D - expected_D).norm() / expected_D.norm()) < 1e-4
    assert all(torch.equal(value, before[key]) for key, value in constants(module).items())
    assert choice_of(built(shape, build), tasks[0].x[:1], of).engine == "fused"


@pytest.mark.parametrize("engine", ENGINES)
def test_clip_and_noise_are_those_of_what_is_trained(engine: type[Trainer]) -> None:
    """The clip is of the trained part's gradient, and each of its numbers, and no other, is noised."""
    shape, build = MODELS["last layer"]
    start_D, tasks = starting_point(built(shape, build)), cohort_of(shape, (1,))
    found = []
    for noise in (1e-7, 5.0):
        of = plan(noise_multiplier=noise, max_grad_norm=0.05, batch_size=10**6, local_steps=1)
        found += engine(built(shape, build), settings(of, lr=1.0), of).train(start_D, tasks)
    quiet, loud = found
    # Of one example, whose gradient is longer: the step is as long as the clip.
    assert float(quiet.delta_D.norm()) == pytest.approx(0.05, rel=1e-4)
    assert len(quiet.delta_D) == 5 * CLASSES + CLASSES
    assert bool(((loud.delta_D - quiet.delta_D).abs() > 1e-6).all())


@pytest.mark.parametrize("name", ["mha", "lstm"])
def test_a_frozen_layer_draws_its_zeros_from_the_clients_stream(name: str) -> None:
    shape, build = {
        "mha": (WORDS, lambda: frozen(Causal(0.3), "heads")),
        "lstm": (LINE, lambda: frozen(Last(_lstm(dropout=0.5)), "cells")),
    }[name]
    start_D, tasks, of = starting_point(built(shape, build)), cohort_of(shape), plan()
    found = []
    for seed in (1, 2):
        module = built(shape, build)
        torch.manual_seed(seed)
        found.append(Fused(module, settings(of), of).train(start_D, tasks))
    assert all(torch.equal(one.delta_D, other.delta_D) for one, other in zip(*found, strict=True))
    quiet = {
        "mha": lambda: frozen(Causal(), "heads"),
        "lstm": lambda: frozen(Last(nn.LSTM(6, CLASSES, 2, batch_first=True)), "cells"),
    }
    without = Fused(built(shape, quiet[name]), settings(of), of).train(start_D, tasks)
    assert not any(torch.allclose(one.delta_D, other.delta_D, rtol=1e-2) for one, other in zip(found[0], without, strict=True))


# --- what writes a constant -------------------------------------------------------------------------------------------


class Running(nn.Module):
    """Takes away a mean of all that it has seen, which a buffer keeps; in the way of most, or by a new tensor."""

    def __init__(self, least: float = 0.0, anew: bool = False) -> None:
        super().__init__()
        self.linear, self.least, self.anew = nn.Linear(6, CLASSES), least, anew
        self.register_buffer("mean", torch.zeros(6))
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training and bool(x.abs().max() > self.least):
            mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            if self.anew:
                self.mean = mean
            else:
                self.mean.copy_(mean)
        logits: Tensor = self.linear(x - self.mean)
        return logits


class Drifting(Running):
    """Writes into a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        del self._buffers["mean"]
        self.register_parameter("mean", nn.Parameter(torch.zeros(6), requires_grad=False))


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("build", [Running, lambda: Running(anew=True), Drifting])
def test_a_constant_that_a_layer_writes_is_refused_before_anything_is_trained(
    build: Callable[[], nn.Module], engine: type[Trainer], of: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fused, "_train_group", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(Opacus, "_train_plain", lambda *_: pytest.fail("trained"))
    module = built(FLAT, build)
    with pytest.raises(ModelError, match=r"mean is written by a layer .*replace BatchNorm by GroupNorm"):
        engine(module, settings(of), of).train(starting_point(module), cohort_of(FLAT))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("anew", [False, True])
def test_also_where_only_real_inputs_make_it_write(engine: type[Trainer], anew: bool) -> None:
    module = built(FLAT, lambda: Running(least=3.0, anew=anew))
    with pytest.raises(ModelError, match="mean is written by a layer"):
        engine(module, settings(NoPlan()), NoPlan()).train(starting_point(module), cohort_of(FLAT))


def test_without_the_look_at_constants_it_would_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard's own mutant."""
    monkeypatch.setattr(opacus, "require_constants", lambda *_: None)
    monkeypatch.setattr(_constants.Constants, "require", lambda _: None)
    module = built(FLAT, Running)
    assert Opacus(module, settings(NoPlan()), NoPlan()).train(starting_point(module), cohort_of(FLAT))
    assert bool(module.get_buffer("mean").any())


class Cached(Causal):
    """Makes its mask when it is first wanted, and keeps it."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "kept"):
            self.register_buffer("kept", torch.ones(5, 5, dtype=torch.bool).triu(1), persistent=False)
        self.mask = self.kept
        return super().forward(x)


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
def test_what_is_made_once_and_kept_is_no_running_value(of: Plan) -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return Cached().double()

    assert farthest(fresh, cohort_of(WORDS, dtype=torch.float64), of) < 1e-10


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_trains_nothing_is_refused(engine: type[Trainer]) -> None:
    for model in (nn.Linear(6, CLASSES).requires_grad_(False), nn.Flatten()):
        with pytest.raises(ModelError, match=r"none of the model's parameters requires a gradient.*leave requires_grad = True"):
            engine(model, settings(NoPlan()), NoPlan()).train(torch.zeros(0), cohort_of(FLAT))
