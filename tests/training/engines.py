"""Models, tasks and an independent account of local training, to put the fused engine beside."""

import math
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from privfl.config import TrainingConfig
from privfl.models.cnn import Cnn
from privfl.models.logistic import Logistic
from privfl.models.mlp import Mlp
from privfl.models.resnet8 import Resnet8
from privfl.privacy.plan import ExamplePlan, Plan
from privfl.privacy.sampling import poisson_batches, shuffled_batches
from privfl.seeding import Seed
from privfl.training import LocalTask
from privfl.vectors import load_vector

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CharacterTransformer = runpy.run_path(str(_BENCHMARKS / "_transformer.py"))["CharacterTransformer"]

CLASSES = 4
VOCABULARY = 7


class Residual(nn.Module):
    """Adds what comes in to what comes out, by functions and not by layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.outer(x + functional.silu(self.inner(x)))
        return logits


class Attention(nn.Module):
    """One head over a sequence, with the mean over it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix, self.out = nn.Embedding(VOCABULARY, 6), nn.Linear(6, 18), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.mix(self.table(x)).chunk(3, dim=2)
        logits: Tensor = self.out(functional.scaled_dot_product_attention(query, key, value).mean(1))
        return logits


class Unruly(nn.Module):
    """A layer for which there is no rule: its parameter is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.inner = nn.Parameter(torch.linspace(0.5, 1.5, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.inner(x) * self.gain)
        return out


def _images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(CLASSES))


def _conv2d(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: _images(
        nn.Conv2d(2, 4, **{"kernel_size": 3, **settings}),
        nn.Tanh(),
        nn.Conv2d(4, 4, **{"kernel_size": 3, **settings}),
        nn.ELU(),
    )


FLAT, IMAGE, LINE, WORDS = (6,), (2, 9, 8), (2, 15), (5,)

MODELS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "linear": (FLAT, lambda: nn.Linear(6, CLASSES)),
    "linear without bias": (FLAT, lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.GELU(), nn.Linear(5, CLASSES))),
    "linear over positions": (LINE, lambda: nn.Sequential(nn.Linear(15, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, CLASSES))),
    "linear by ghost norms": (LINE, lambda: nn.Sequential(nn.Linear(15, 40), nn.Tanh(), nn.Flatten(), nn.Linear(80, CLASSES))),
    "convolution": (IMAGE, _conv2d()),
    "convolution, strided and padded": (IMAGE, _conv2d(stride=2, padding=(1, 2))),
    "convolution, blocks of a stride": (IMAGE, _conv2d(kernel_size=2, stride=2, padding=1)),
    "convolution, dilated": (IMAGE, _conv2d(dilation=(1, 2), padding=2, bias=False)),
    "convolution, same": (IMAGE, _conv2d(padding="same")),
    "convolution, grouped": (IMAGE, _conv2d(groups=2, padding=1)),
    "convolution, long rows": ((5, 6, 6), lambda: _images(nn.Conv2d(5, 4, 4, padding=1), nn.ReLU(inplace=True))),
    "convolution of lines": (
        LINE,
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(4, 2, 2),
            nn.Flatten(),
            nn.LazyLinear(CLASSES),
        ),
    ),
    "pooling": (IMAGE, lambda: _images(nn.Conv2d(2, 4, 2), nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.Conv2d(4, 4, 2))),
    "group norm": (IMAGE, lambda: _images(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.GroupNorm(1, 4, affine=False))),
    "layer norm": (
        LINE,
        lambda: nn.Sequential(nn.LayerNorm(15), nn.LayerNorm((2, 15), bias=False), nn.Flatten(), nn.Linear(30, CLASSES)),
    ),
    "rms norm": (LINE, lambda: nn.Sequential(nn.Linear(15, 6), nn.RMSNorm(6), nn.Flatten(), nn.Linear(12, CLASSES))),
    "embedding": (
        WORDS,
        lambda: nn.Sequential(nn.Embedding(VOCABULARY, 3, padding_idx=1), nn.Flatten(), nn.Linear(15, CLASSES)),
    ),
    "attention": (WORDS, Attention),
    "residual": (FLAT, Residual),
    "no rule": (FLAT, lambda: nn.Sequential(nn.Linear(6, 6), Unruly(), nn.Linear(6, CLASSES))),
    "logistic": ((1, 28, 28), lambda: Logistic(kind="logistic").build((1, 28, 28), CLASSES)),
    "mlp": ((1, 8, 8), lambda: Mlp(kind="mlp", hidden=(9, 7)).build((1, 8, 8), CLASSES)),
    "cnn": ((1, 18, 18), lambda: Cnn(kind="cnn").build((1, 18, 18), CLASSES)),
    "resnet8": ((2, 8, 8), lambda: Resnet8(kind="resnet8", width=8).build((2, 8, 8), CLASSES)),
    "transformer": (WORDS, lambda: CharacterTransformer(length=5, vocabulary=VOCABULARY, width=8, heads=2)),
}


def model(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    shape, build = MODELS[name]
    torch.manual_seed(0)
    module = build()
    module(torch.zeros(2, *shape, dtype=torch.int64 if shape == WORDS else torch.float32))
    return module.to(dtype)


def cohort(
    name: str, sizes: tuple[int, ...] = (9, 2, 6), dtype: torch.dtype = torch.float32, scale: float = 2.0
) -> list[LocalTask]:
    shape = MODELS[name][0]
    tasks = []
    for client, size in enumerate(sizes):
        draw = torch.Generator().manual_seed(client)
        if shape == WORDS:
            x = torch.randint(VOCABULARY, (size, *shape), generator=draw)
        else:
            x = (torch.randn(size, *shape, generator=draw) * scale).to(dtype)
        y = torch.randint(CLASSES, (size,), generator=draw)
        tasks.append(LocalTask(client, size, x, y, Seed(3) / "client" / client))
    return tasks


def settings(of: Plan, **changes: Any) -> TrainingConfig:
    given: dict[str, Any] = {"local_steps": 3, "batch_size": 4, "lr": 0.3}
    if isinstance(of, ExamplePlan):
        given |= {"local_steps": of.local_steps, "local_epochs": of.local_epochs, "batch_size": of.batch_size}
    return TrainingConfig(**{**given, **changes})


def plan(**changes: Any) -> ExamplePlan:
    return ExamplePlan(
        **{
            "noise_multiplier": 1e-13,
            "max_grad_norm": 0.6,
            "delta": 1e-5,
            "budget": None,
            "batch_size": 4,
            "local_epochs": None,
            "local_steps": 3,
            **changes,
        }
    )


def by_autograd(module: nn.Module, global_D: Tensor, task: LocalTask, of: Plan, config: TrainingConfig) -> Tensor:
    """The local weights minus the global ones, from the textbook: one example, one gradient, one clip at a time."""
    load_vector(module, global_D)
    parameters, began = list(module.parameters()), [parameter.detach().clone() for parameter in module.parameters()]
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    batches = (task.seed / "batches").torch()
    if isinstance(of, ExamplePlan):
        todo = of.local_training(task.size)
        indices = list(poisson_batches(len(task.y), todo.sample_rate, todo.steps, batches))
    else:
        indices = list(shuffled_batches(len(task.y), config.batch_size, config.local_steps or 0, batches))
    for index in indices:
        summed = [torch.zeros_like(parameter) for parameter in parameters]
        for i in index.tolist():
            loss = functional.cross_entropy(module(task.x[i : i + 1]), task.y[i : i + 1])
            gradients = torch.autograd.grad(loss, parameters)
            factor = 1.0
            if isinstance(of, ExamplePlan):
                norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
                factor = min(1.0, of.max_grad_norm / (norm + 1e-6))
            for total, gradient in zip(summed, gradients, strict=True):
                total += factor * gradient
        divisor = of.local_training(task.size).expected_batch_size if isinstance(of, ExamplePlan) else len(index)
        with torch.no_grad():
            for parameter, start, total, moving in zip(parameters, began, summed, velocity, strict=True):
                step = total / divisor + config.proximal * (parameter - start) + config.weight_decay * parameter
                moving.mul_(config.momentum).add_(step)
                parameter.sub_(moving, alpha=config.lr)
    return torch.cat([(parameter.detach() - start).flatten() for parameter, start in zip(parameters, began, strict=True)])


def starting_point(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


def without_the_last(task: LocalTask) -> LocalTask:
    return replace(task, x=task.x[:-1], y=task.y[:-1])
