"""Layers that mix a batch are refused by both engines, also where only real inputs bring it out; honest ones pass."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_checks import INPUTS, plan, task, train, training
from engines import MODELS, cohort, model
from engines import plan as plan_of
from engines import settings as settings_of
from torch import Tensor, nn

from privfl.errors import ModelError
from privfl.learning.training import Trainer, _cohort, _guards, opacus
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.vectors import to_vector

ENGINES: list[type[Trainer]] = [Opacus, Fused]


class Amax(nn.Module):
    """Leaves inputs as they are, until one is large: then all are divided by it. No probe of small numbers shows it."""

    def forward(self, x: Tensor) -> Tensor:
        peak = x.abs().amax()
        return x / peak if peak > 100 else x


class Spread(nn.Module):
    """The same by the smallest number, below zero, and without a jump."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + torch.relu(-50 - x.amin()))


class Mean(nn.Module):
    """A running mean that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * float(x.detach().mean())
        return x - self.mean


class MeanTensor(Mean):
    """The same in place, in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = [torch.zeros(INPUTS)]

    def forward(self, x: Tensor) -> Tensor:
        self.kept[0].mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.kept[0]


class LateMean(Mean):
    """Remembers large inputs only."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().abs().amax()) > 100:
            self.mean = float(x.detach().amax())
        return x - self.mean


class Counter(Mean):
    """Remembers how often it was called."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean += 1
        return x


MIXED, KEPT = "depends on the other examples of its batch", "keeps something of the examples"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("layer", "words"),
    [(Amax, MIXED), (Spread, MIXED), (Mean, KEPT), (MeanTensor, KEPT), (LateMean, KEPT), (Counter, KEPT)],
)
def test_a_layer_that_mixes_is_refused(
    engine: type[Trainer], layer: type[nn.Module], words: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)
    said = set()
    for scale in (0.1, 5.0):
        built = nn.Sequential(nn.Flatten(), layer(), nn.Linear(INPUTS, 3))
        with pytest.raises(ModelError, match=words) as caught:
            train(engine, plan(), task(scale=scale), model=built)
        said.add(str(caught.value))
    # One line, and the same whatever the data are.
    assert len(said) == 1
    assert "\n" not in said.pop()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_layer_that_mixes_later_in_the_model_is_found_too(engine: type[Trainer]) -> None:
    built = nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, 8), Later(), nn.Linear(8, 3))
    with pytest.raises(ModelError, match=MIXED):
        train(engine, plan(), task(), model=built)


class Later(nn.Module):
    """Mixes where an activation is large."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0) * (x.abs().amax() > 0.9)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_the_look_at_a_real_batch_it_would_pass(engine: type[Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard's own mutant: what is found above is found by it alone, and is a leak."""
    for module in (opacus, _cohort):
        monkeypatch.setattr(module, "require_apart", lambda *_: None)
    of = plan(batch_size=10**6, noise_multiplier=1e-9)
    one = task(41)
    one.x.kept[-1] = 1e4
    fewer = replace(one, rows_n=one.rows_n[:-1])
    results = [train(engine, of, data, model=nn.Sequential(nn.Flatten(), Amax(), linear()))[0].delta_D for data in (one, fewer)]
    assert float((results[0] - results[1]).norm()) > 5 * of.max_grad_norm / 41


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(INPUTS, 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_look_costs_two_small_passes_a_run_and_moves_nothing(
    engine: type[Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all clients and rounds, at two places, at most sixteen examples; with dropout, whose draws it must not take."""
    looked: list[int] = []
    real = _guards.require_apart

    def spy(model: nn.Module, measure: Any, x_B: Tensor, place: int = 0) -> None:
        looked.append(len(x_B))
        real(model, measure, x_B, place)

    def trained(skip: bool) -> Tensor:
        for module in (opacus, _cohort):
            monkeypatch.setattr(module, "require_apart", (lambda *_: None) if skip else spy)
        torch.manual_seed(0)
        built = nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, 9), nn.Dropout(0.5), nn.Linear(9, 3))
        start_D, of = to_vector(built), plan(local_steps=4)
        trainer = engine(built, training(of), of)
        tasks = [task(200, seed=Seed(number), client=number) for number in range(3)]
        return torch.stack([one.delta_D for _ in range(2) for one in trainer.train(start_D, tasks)])

    assert torch.equal(trained(skip=False), trained(skip=True))
    assert len(looked) == len(_guards.STEPS)
    assert 2 <= looked[0] <= _guards.LOOKED_AT


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_looks_where_nothing_is_promised(engine: type[Trainer]) -> None:
    built = nn.Sequential(nn.Flatten(), Amax(), nn.Linear(INPUTS, 3))
    train(engine, NoPlan(), task(), model=built)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", MODELS)
def test_an_honest_model_passes(name: str, scale: float) -> None:
    of = plan_of(batch_size=6)
    built = model(name)
    Fused(built, settings_of(of), of).train(to_vector(built), cohort(name, (9, 7), scale=scale))


def test_an_example_that_overflows_is_no_mixing() -> None:
    for engine in ENGINES:
        bad = task(40)
        bad.x.kept[:5] = torch.inf
        train(engine, plan(batch_size=40), bad)


def test_single_examples_are_looked_at_when_two_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of one mixes nothing; the look waits for the next."""
    seen: list[int] = []
    for module in (opacus, _cohort):
        monkeypatch.setattr(module, "require_apart", lambda model, measure, x_B, place=0: seen.append(len(x_B)))
    for engine in ENGINES:
        train(engine, plan(batch_size=1, local_steps=30), task(40))
    assert len(seen) == 2 * len(_guards.STEPS)
    assert min(seen) >= 2
