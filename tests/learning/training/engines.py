"""Models, tasks and an independent account of local training, to put the fused engine beside."""

import math
import runpy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.learning.models.cnn import Cnn
from privfl.learning.models.logistic import Logistic
from privfl.learning.models.mlp import Mlp
from privfl.learning.models.resnet8 import Resnet8
from privfl.learning.optimizers._moments import Moments
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.training import LocalTask, LocalWork
from privfl.learning.training._budget import Limits
from privfl.learning.training._choice import Choice, choose
from privfl.learning.training.fused import Fused
from privfl.privacy.plans import Plan
from privfl.privacy.plans.example import ExamplePlan
from privfl.privacy.sampling import poisson_batches, shuffled_batches
from privfl.seeding import Seed
from privfl.vectors import Layout, load_vector, trained

_BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
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


class Recurrent(nn.Module):
    """An LSTM of which every output is used: each step's state, and each layer's last state and last cell."""

    def __init__(self, cells: nn.Module, inputs: int = 15, first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.cells, self.out = first or nn.Linear(15, inputs), cells, nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, (h, c) = self.cells(self.first(x))
        logits: Tensor = self.out(states.square().sum(1) + h.sum(0) + c.prod(0))
        return logits


class LastState(nn.Module):
    """What most models take of an LSTM."""

    def __init__(self, cells: nn.Module) -> None:
        super().__init__()
        self.cells, self.out = cells, nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.cells.flatten_parameters()  # type: ignore[operator]
        logits: Tensor = self.out(self.cells(x)[1][0][-1])
        return logits


class LastCell(LastState):
    """The states after the last step are not used, and its output gate has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.cells(x)[1][1][0])
        return logits


class Heads(nn.Module):
    """Self-attention in ``nn.MultiheadAttention``, of which the mean is taken."""

    def __init__(self, heads: nn.Module, **settings: Any) -> None:
        super().__init__()
        self.table, self.heads, self.out = nn.Embedding(VOCABULARY, 8), heads, nn.Linear(8, CLASSES)
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        here = self.table(x)
        logits: Tensor = self.out(self.heads(here, here, here, **self.settings)[0].mean(1))
        return logits


class Masked(Heads):
    """Attention that looks back only, and not at one of the words, except from the first position on."""

    def forward(self, x: Tensor) -> Tensor:
        here, length = self.table(x), x.shape[1]
        ahead = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        hidden = (x == 1) & (torch.arange(length, device=x.device) > 0)
        mixed, _ = self.heads(here, here, here, hidden, attn_mask=ahead, is_causal=True, **self.settings)
        logits: Tensor = self.out(mixed.mean(1))
        return logits


class Crossed(Heads):
    """Attention from the first two positions to the others, with a mask for each example and head, weights and all.

    Where ``apart``, values are no keys.
    """

    def __init__(self, heads: nn.Module, apart: bool, **settings: Any) -> None:
        super().__init__(heads, **settings)
        self.apart = apart

    def forward(self, x: Tensor) -> Tensor:
        here = self.table(x)
        keys = here[:, 2:]
        # The heads of one example are neighbours, and see different masks.
        own, same = x[:, 0, None, None] * torch.eye(2, 3, device=x.device), torch.ones(len(x), 2, 3, device=x.device).tril()
        bias = torch.stack([own, same], dim=1).flatten(0, 1)
        mixed, weights = self.heads(
            here[:, :2], keys, keys.tanh() if self.apart else keys, attn_mask=bias.to(here.dtype), **self.settings
        )
        share = weights if weights.dim() == 3 else weights.square().sum(1)
        logits: Tensor = self.out((mixed.unsqueeze(2) * share.unsqueeze(3)).sum((1, 2)))
        return logits


class Translator(nn.Module):
    """PyTorch's own encoder and decoder, as they are."""

    def __init__(self) -> None:
        super().__init__()
        settings: dict[str, Any] = {"d_model": 8, "nhead": 2, "dim_feedforward": 6, "dropout": 0.0, "batch_first": True}
        self.table = nn.Embedding(VOCABULARY, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**settings), 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(**settings, norm_first=True)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        here = self.table(x)
        logits: Tensor = self.out(self.decoder(here[:, :3], self.encoder(here, src_key_padding_mask=x == 1)).mean(1))
        return logits


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True)
    return nn.Sequential(nn.Embedding(VOCABULARY, 8), layer, nn.Flatten(), nn.Linear(40, CLASSES))


def _heads(**settings: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(8, 2, batch_first=True, **settings)


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


FLAT, IMAGE, LINE, LONG, WORDS = (6,), (2, 9, 8), (2, 15), (9, 15), (5,)

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
    "convolution, lopsided": (IMAGE, _conv2d(kernel_size=2, padding="same")),
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
    "lstm": (LINE, lambda: LastState(nn.LSTM(15, 5, batch_first=True))),
    "lstm of several layers": (LONG, lambda: Recurrent(nn.LSTM(3, 5, 3, batch_first=True), 3)),
    "lstm without bias": (LINE, lambda: Recurrent(nn.LSTM(15, 5, 2, bias=False, batch_first=True))),
    "lstm, last cell": (LINE, lambda: LastCell(nn.LSTM(15, 5, batch_first=True))),
    "heads": (WORDS, lambda: Heads(_heads(), need_weights=False)),
    "heads without bias": (WORDS, lambda: Heads(_heads(bias=False))),
    "heads, masked": (WORDS, lambda: Masked(_heads())),
    "heads, crossed": (WORDS, lambda: Crossed(_heads(), apart=False)),
    "heads, values apart, without bias": (
        WORDS,
        lambda: Crossed(_heads(bias=False), apart=True, average_attn_weights=False),
    ),
    "encoder layer": (WORDS, _encoder),
    "encoder and decoder": (WORDS, Translator),
    "residual": (FLAT, Residual),
    "no rule": (FLAT, lambda: nn.Sequential(nn.Linear(6, 6), Unruly(), nn.Linear(6, CLASSES))),
    "logistic": ((1, 28, 28), lambda: Logistic(kind="logistic").build((1, 28, 28), CLASSES)),
    "mlp": ((1, 8, 8), lambda: Mlp(kind="mlp", hidden=(9, 7)).build((1, 8, 8), CLASSES)),
    "cnn": ((1, 18, 18), lambda: Cnn(kind="cnn").build((1, 18, 18), CLASSES)),
    "resnet8": ((2, 8, 8), lambda: Resnet8(kind="resnet8", width=8).build((2, 8, 8), CLASSES)),
    "transformer": (WORDS, lambda: CharacterTransformer(length=5, vocabulary=VOCABULARY, width=8, heads=2)),
}


CONVOLUTIONS = [name for name in MODELS if "convolution" in name or name in ("pooling", "group norm", "cnn", "resnet8")]


def model(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    return built(*MODELS[name], dtype)


def built(shape: tuple[int, ...], build: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    module = build()
    module(torch.zeros(2, *shape, dtype=torch.int64 if shape == WORDS else torch.float32))
    return module.to(dtype)


def cohort(
    name: str, sizes: tuple[int, ...] = (9, 2, 6), dtype: torch.dtype = torch.float32, scale: float = 2.0
) -> list[LocalTask]:
    return cohort_of(MODELS[name][0], sizes, dtype, scale)


def cohort_of(
    shape: tuple[int, ...], sizes: tuple[int, ...] = (9, 2, 6), dtype: torch.dtype = torch.float32, scale: float = 2.0
) -> list[LocalTask]:
    """Clients whose examples lie in one pool, in no order; the pool's first is nobody's, and no number where it can be."""
    draw, count = torch.Generator().manual_seed(0), sum(sizes) + 1
    if shape == WORDS:
        x = torch.randint(VOCABULARY, (count, *shape), generator=draw)
    else:
        x = (torch.randn(count, *shape, generator=draw) * scale).to(dtype)
        x[0] = torch.nan
    y = torch.randint(CLASSES, (count,), generator=draw)
    owned = torch.split(1 + torch.randperm(sum(sizes), generator=draw), list(sizes))
    return [LocalTask(k, len(rows_n), InputStore(x), y, rows_n, Seed(3) / "client" / k) for k, rows_n in enumerate(owned)]


def works(start_D: Tensor, clients: int, *fields: str, seed: int = 0, steps: Sequence[int] = (5, 1, 4)) -> list[LocalWork]:
    """For each client a work of its own in these fields of :class:`LocalWork`."""
    draw = torch.Generator().manual_seed(seed)

    def field(name: str, client: int) -> Any:
        noise_D = torch.randn(start_D.shape, generator=draw, dtype=torch.float64).to(start_D.dtype)
        match name:
            case "mask_D":
                return noise_D > 0
            case "mu":
                return 0.5 + client
            case "steps":
                return steps[client % len(steps)]
        return 0.3 * noise_D + (start_D if name != "drift_D" else 0.0)

    return [LocalWork(**{name: field(name, client) for name in fields}) for client in range(clients)]


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


def choice_of(module: nn.Module, x: Tensor, of: Plan | None = None, engine: str = "auto") -> Choice:
    of = of or plan()
    return choose(settings(of, engine=engine), of, module, x)


def torch_optimizer(config: TrainingConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """PyTorch's own of that name."""
    given: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if isinstance(config.optimizer, Moments):
        given |= {"betas": (config.optimizer.beta1, config.optimizer.beta2), "eps": config.optimizer.eps}
    else:
        given |= {"momentum": config.momentum}
    kinds: dict[str, Callable[..., torch.optim.Optimizer]]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.optimizer.kind](parameters, **given)


def factor_of(config: TrainingConfig, step: int, steps: int) -> float:
    """A cosine's factor of a step, or 1."""
    return (1 + math.cos(math.pi * step / steps)) / 2 if config.step_schedule.kind == "cosine" else 1.0


Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs and labels of one example -> its loss."""


def by_autograd(
    module: nn.Module,
    global_D: Tensor,
    task: LocalTask,
    of: Plan,
    config: TrainingConfig,
    loss_of: Loss = functional.cross_entropy,
) -> Tensor:
    """The final weights minus the start's, from the textbook: one example, one gradient, one clip at a time."""
    work, layout = task.work, Layout.of(module)
    load_vector(module, global_D if work.start_D is None else work.start_D)
    parameters = list(trained(module).values())
    began = [parameter.detach().clone() for parameter in parameters]
    centre = list(layout.unflatten(global_D if work.centre_D is None else work.centre_D).values())
    drift, mask = (
        list(layout.unflatten(given_D).values()) if given_D is not None else [otherwise] * len(parameters)
        for given_D, otherwise in ((work.drift_D, torch.zeros(())), (work.mask_D, torch.ones(())))
    )
    optimizer = torch_optimizer(config, parameters)
    batches, noise = (task.seed / "batches").torch(), (task.seed / "noise").torch()
    if isinstance(of, ExamplePlan):
        todo = of.planned(task.size)
        indices = list(poisson_batches(len(task.rows_n), todo.sample_rate, work.steps or todo.steps, batches))
    else:
        steps = work.steps or config.local_steps or 0
        indices = list(shuffled_batches(len(task.rows_n), config.batch_size, steps, batches))
    for step, index in enumerate(indices):
        summed = [torch.zeros_like(parameter) for parameter in parameters]
        for i in task.rows_n[index].tolist():
            loss = loss_of(module(task.x[i : i + 1]), task.y[i : i + 1])
            gradients = torch.autograd.grad(loss, parameters)
            factors = _factors(module, gradients, of) if isinstance(of, ExamplePlan) else [1.0] * len(gradients)
            for total, gradient, factor in zip(summed, gradients, factors, strict=True):
                total += factor * gradient
        if isinstance(of, ExamplePlan):
            deviation = of.planned(task.size).noise_multiplier * of.max_grad_norm
            for total in summed:
                total += torch.empty(total.shape).normal_(0.0, deviation, generator=noise)
        divisor = of.planned(task.size).expected_batch_size if isinstance(of, ExamplePlan) else len(index)
        with torch.no_grad():
            for parameter, total in zip(parameters, summed, strict=True):
                parameter.grad = total / divisor
            if config.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            for parameter, drift_, centre_ in zip(parameters, drift, centre, strict=True):
                assert parameter.grad is not None
                parameter.grad += drift_ + work.mu * (parameter - centre_)
            optimizer.param_groups[0]["lr"] = config.lr * task.lr_scale * factor_of(config, step, len(indices))
            optimizer.step()
            for parameter, start, mask_ in zip(parameters, began, mask, strict=True):
                parameter.copy_(torch.where(mask_.bool(), parameter, start))
    return torch.cat([(parameter.detach() - start).flatten() for parameter, start in zip(parameters, began, strict=True)])


def farthest(
    build: Callable[[], nn.Module],
    tasks: Sequence[LocalTask],
    of: Plan,
    limits: Limits | None = None,
    learned: tuple[Task, Loss] = (CLASSIFICATION, functional.cross_entropy),
    **changes: Any,
) -> float:
    """The largest over a cohort of ‖fused − autograd‖ / ‖autograd‖."""
    config, start_D = settings(of, **changes), starting_point(build())
    trainer = Fused(build(), config, of, learned[0])
    trainer._limits = limits
    found = trainer.train(start_D, tasks)
    assert [result.client for result in found] == [task.client for task in tasks]
    far = 0.0
    for task, result in zip(tasks, found, strict=True):
        expected_D = by_autograd(build(), start_D, task, of, config, learned[1])
        assert result.delta_D.dtype == start_D.dtype
        far = max(far, float((result.delta_D - expected_D).norm() / expected_D.norm()))
    return far


def _factors(module: nn.Module, gradients: Sequence[Tensor], of: ExamplePlan) -> list[float]:
    """min(1, C / ‖g‖) of the whole, or min(1, C / (√L ‖g_l‖)) of each of L modules that have parameters of their own."""
    owners = [id(owner) for owner in module.modules() for one in owner.parameters(recurse=False) if one.requires_grad]
    owners = owners if of.scheme == "per_layer" else [0] * len(gradients)
    squares = dict.fromkeys(owners, 0.0)
    for owner, gradient in zip(owners, gradients, strict=True):
        squares[owner] += float(gradient.double().square().sum())
    limit = of.max_grad_norm / math.sqrt(len(squares))
    return [min(1.0, limit / (math.sqrt(squares[owner]) + 1e-6)) for owner in owners]


def starting_point(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trained(module).values()]).clone()


def without_the_last(task: LocalTask) -> LocalTask:
    return replace(task, rows_n=task.rows_n[:-1])
