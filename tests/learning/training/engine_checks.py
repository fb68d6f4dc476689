"""What an engine must keep, as checks that a correct engine passes and a broken one does not.

Each takes a function that builds a trainer, so that the same check is put to the real engine and to engines that were
broken on purpose. Statistical checks fail a correct engine for fewer than one seed in 10,000.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.learning.training import LocalResult, LocalTask, Trainer
from privfl.privacy.plans import Plan
from privfl.privacy.plans.example import ExamplePlan
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.vectors import to_vector

Build = Callable[[nn.Module, TrainingConfig, Plan], Trainer]

INPUTS, CLASSES = 6, 3


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, CLASSES))


def plan(**changes: Any) -> ExamplePlan:
    settings: dict[str, Any] = {
        "noise_multiplier": 1.0,
        "max_grad_norm": 0.5,
        "delta": 1e-5,
        "budget": None,
        "batch_size": 8,
        "local_epochs": None,
        "local_steps": 1,
    }
    return ExamplePlan(**{**settings, **changes})


def training(of: Plan, **changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {"local_steps": 1, "batch_size": 8, "lr": 1.0}
    if isinstance(of, ExamplePlan):
        settings |= {"local_steps": of.local_steps, "local_epochs": of.local_epochs, "batch_size": of.batch_size}
    return TrainingConfig(**{**settings, **changes})


_STREAM = Seed(7)


def task(examples: int = 40, seed: Seed = _STREAM, scale: float = 5.0, client: int = 0) -> LocalTask:
    draw = (Seed(11) / "data").numpy()
    x = torch.from_numpy(draw.normal(size=(examples, INPUTS)).astype(np.float32) * scale)
    y = torch.from_numpy(draw.integers(0, CLASSES, examples))
    return LocalTask(client, examples, InputStore(x), y, torch.arange(examples), seed)


def train(build: Build, of: Plan, *tasks: LocalTask, model: nn.Module | None = None, **changes: Any) -> list[LocalResult]:
    torch.manual_seed(0)
    model = model or linear()
    start_D = to_vector(model)
    return build(model, training(of, **changes), of).train(start_D, tasks)


def per_example_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One example after another, by autograd alone: shape (n, D)."""
    rows = []
    for index in range(len(y)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[index : index + 1]), y[index : index + 1]).backward()  # type: ignore[no-untyped-call]
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone())
    return torch.stack(rows)


def check_step_is_the_clipped_mean(build: Build) -> None:
    """Without noise, a full-batch step is −lr · Σ clip(g_i, C) / n, computed here in plain autograd."""
    of, one = plan(batch_size=40, noise_multiplier=1e-9), task()
    torch.manual_seed(0)
    gradients = per_example_gradients(linear(), one.x[:], one.y)
    factors = (of.max_grad_norm / gradients.norm(dim=1)).clamp(max=1.0)
    expected = -(gradients * factors[:, None]).sum(0) / 40
    assert torch.allclose(train(build, of, one)[0].delta_D, expected, atol=1e-6)


def check_sensitivity(build: Build) -> None:
    """Training on one example more, however large, moves the release by at most lr C / (q N), N fixed: two neighbours
    have the same public size, and so the same rate, steps and denominator."""
    for scheme, scale in itertools.product(("flat", "per_layer"), (1.0, 1e3)):
        of = plan(batch_size=10**6, noise_multiplier=1e-9, max_grad_norm=0.5, scheme=scheme)
        # With rate 1 and the same streams, the two runs differ by the last example alone.
        one = task(41, scale=scale)
        fewer = dataclasses.replace(one, rows_n=one.rows_n[:-1])
        with_it, without = (train(build, of, data)[0] for data in (one, fewer))
        assert with_it.event == without.event
        assert float((with_it.delta_D - without.delta_D).norm()) <= of.max_grad_norm / 41 * (1 + 1e-4)


def check_denominator_is_fixed(build: Build) -> None:
    """A step over a realised batch of b examples is divided by the expected size, whatever b is.

    All examples are the same, so that a step is b/expected times one clipped gradient: its length gives b away. A
    mechanism that divides by b has steps of one length.
    """
    of = plan(batch_size=8, noise_multiplier=1e-9, max_grad_norm=0.5)
    one = task(1)
    results = train(build, of, *(LocalTask(0, 40, one.x, one.y, one.rows_n.repeat(40), Seed(number)) for number in range(60)))
    lengths = [float(result.delta_D.norm()) for result in results]
    drawn = np.array(lengths) * 8 / 0.5
    assert np.allclose(drawn, np.round(drawn), atol=1e-3)
    assert drawn.std() > 1.0


def check_noise(build: Build) -> None:
    """What a step adds to its clipped mean is Gaussian, of standard deviation σC / expected batch, on every coordinate.

    The same streams give the same batches, so the step without noise can be subtracted.
    """
    loud, quiet = plan(noise_multiplier=2.0), plan(noise_multiplier=1e-9)
    tasks = [task(seed=Seed(number)) for number in range(150)]
    pairs = zip(train(build, loud, *tasks), train(build, quiet, *tasks), strict=True)
    standard = torch.cat([noisy.delta_D - clean.delta_D for noisy, clean in pairs]).numpy() * 8 / (2.0 * 0.5)
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], len(standard)) / len(standard)
    assert low <= np.square(standard).mean() <= high
    assert stats.kstest(standard, "norm").pvalue > 1e-4


class _Starved(ExamplePlan):
    """A plan whose batches are almost surely empty."""

    def sample_rate(self, examples: int) -> float:
        return 1e-9


def check_noise_without_data(build: Build) -> None:
    """Batches are almost surely empty at a rate of 1e-9; every step still adds its noise."""
    of = plan(noise_multiplier=1.5, max_grad_norm=0.5, batch_size=1, local_steps=30)
    starved = _Starved(**{field.name: getattr(of, field.name) for field in dataclasses.fields(of)})
    results = train(build, starved, *(task(1000, seed=Seed(number)) for number in range(60)), lr=1e-6)
    assert all(result.event is not None and result.event.steps == 30 for result in results)
    # Each of 30 steps: lr σ C / (q n) = 1e-6 · 0.75 / 1e-6 = 0.75 on each coordinate; 30 of them: variance 30 · 0.75².
    draws = torch.cat([result.delta_D for result in results]).numpy()
    standard = draws / (0.75 * np.sqrt(30))
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], len(standard)) / len(standard)
    assert low <= standard.var() <= high


def check_clients_are_independent(build: Build) -> None:
    """The noise of two clients, and of one client in two rounds, is uncorrelated: |r| below 4.1/√n."""
    of = plan(noise_multiplier=100.0, local_steps=1)
    sides = []
    for client in (0, 1):
        tasks = [task(seed=Seed(number) / "round" / 0 / "client" / client, client=client) for number in range(200)]
        sides.append(torch.cat([result.delta_D for result in train(build, of, *tasks)]).numpy())
    first, second = sides
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.1 / np.sqrt(len(first))


def check_non_finite_example_is_a_zero(build: Build) -> None:
    """One example that overflows contributes nothing, and the others as before."""
    of = plan(batch_size=40, noise_multiplier=1e-9)
    good, bad = task(40), task(40)
    bad.x.kept[3] = torch.inf
    result = train(build, of, bad)[0]
    assert torch.isfinite(result.delta_D).all()
    torch.manual_seed(0)
    gradients = per_example_gradients(linear(), good.x[:], good.y)
    factors = (of.max_grad_norm / gradients.norm(dim=1)).clamp(max=1.0)
    factors[3] = 0.0
    assert torch.allclose(result.delta_D, -(gradients * factors[:, None]).sum(0) / 40, atol=1e-6)


CHECKS: tuple[Callable[[Build], None], ...] = (
    check_step_is_the_clipped_mean,
    check_sensitivity,
    check_denominator_is_fixed,
    check_noise,
    check_noise_without_data,
    check_clients_are_independent,
    check_non_finite_example_is_a_zero,
)


def plain(build: Build, **changes: Any) -> LocalResult:
    return train(build, NoPlan(), task(), **changes)[0]
