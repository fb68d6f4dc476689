"""The ways to train a cohort that ``bench_training.py`` puts side by side, and the models that they train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from _transformer import CharacterTransformer
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.learning.models.cnn import Cnn
from privfl.learning.models.logistic import Logistic
from privfl.learning.models.mlp import Mlp
from privfl.learning.models.resnet8 import Resnet8
from privfl.learning.training import LocalTask
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans.example import ExamplePlan
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed

IMAGE, CLASSES, VOCABULARY, LENGTH = (1, 28, 28), 10, 80, 32
LR, CLIP, SIGMA = 0.1, 0.5, 1.0
_CPU = torch.device("cpu")
Precision = Literal["float32", "tf32", "bfloat16"]

MODELS: dict[str, Callable[[], nn.Module]] = {
    "logistic": lambda: Logistic(kind="logistic").build(IMAGE, CLASSES),
    "mlp": lambda: Mlp(kind="mlp").build(IMAGE, CLASSES),
    "cnn": lambda: Cnn(kind="cnn").build(IMAGE, CLASSES),
    "resnet8": lambda: Resnet8(kind="resnet8").build(IMAGE, CLASSES),
    "transformer": lambda: CharacterTransformer(LENGTH, VOCABULARY),
}


@dataclass(frozen=True)
class Work:
    """A model, a cohort of clients, and how many steps of what batch each of them takes."""

    model: str
    clients: int
    batch: int = 32
    steps: int = 2

    @property
    def examples(self) -> int:
        """How many examples go through the model, expected where batches are drawn."""
        return self.clients * self.batch * self.steps

    def tasks(self, device: torch.device = _CPU) -> list[LocalTask]:
        """Clients that own twice as many examples as they use, of one pool."""
        draw, size = torch.Generator().manual_seed(0), 2 * self.batch * self.steps
        pool = self.clients * size
        if self.model == "transformer":
            x, classes = torch.randint(VOCABULARY, (pool, LENGTH), generator=draw), VOCABULARY
        else:
            x, classes = torch.randn(pool, *IMAGE, generator=draw), CLASSES
        y = torch.randint(classes, (pool,), generator=draw)
        inputs, y = InputStore(x.to(device)), y.to(device)
        owned = torch.split(torch.arange(pool), size)
        return [LocalTask(client, size, inputs, y, rows_n, Seed(0) / "client" / client) for client, rows_n in enumerate(owned)]


def cases(work: Work, names: Sequence[str], device: torch.device = _CPU) -> dict[str, Callable[[], object]]:
    """One round of that work, in each of the ways that are named; ``vmap`` on a CPU alone."""
    tasks = work.tasks(device)
    config = TrainingConfig(local_steps=work.steps, batch_size=work.batch, lr=LR)
    plan = ExamplePlan(SIGMA, CLIP, 1e-5, None, work.batch, None, work.steps)
    torch.manual_seed(0)
    start_D = torch.cat([parameter.detach().flatten() for parameter in MODELS[work.model]().parameters()]).to(device)

    def engine(kind: type[Fused | Opacus], of: ExamplePlan | NoPlan, precision: Precision = "float32") -> Callable[[], object]:
        settings = config.model_copy(update={"precision": precision})
        trainer = kind(MODELS[work.model]().to(device), settings, of)
        return lambda: trainer.train(start_D, tasks)

    ways: dict[str, Callable[[], Callable[[], object]]] = {
        "plain": lambda: _plain(work, tasks, torch.contiguous_format),
        "plain_channels_last": lambda: _plain(work, tasks, torch.channels_last),
        "fused": lambda: engine(Fused, plan),
        "opacus": lambda: engine(Opacus, plan),
        "fused_nonprivate": lambda: engine(Fused, NoPlan()),
        "fused_tf32": lambda: engine(Fused, plan, "tf32"),
        "fused_bfloat16": lambda: engine(Fused, plan, "bfloat16"),
        "opacus_as_it_comes": lambda: _opacus_as_it_comes(work, tasks),
        "vmap": lambda: _vmap(work, tasks),
    }
    return {name: ways[name]() for name in names}


def _batches(work: Work, task: LocalTask) -> list[tuple[Tensor, Tensor]]:
    return [task.examples(batch) for batch in torch.split(torch.arange(work.batch * work.steps), work.batch)]


def _plain(work: Work, tasks: Sequence[LocalTask], layout: torch.memory_format) -> Callable[[], None]:
    """What a simulator that loops cannot be faster than: SGD on tensors that lie ready, one client after another."""
    model = MODELS[work.model]().to(tasks[0].x.device, memory_format=layout)  # type: ignore[call-overload]
    start = {name: value.clone() for name, value in model.state_dict().items()}
    ready = [_batches(work, task) for task in tasks]
    if layout is torch.channels_last:
        ready = [[(x.to(memory_format=layout) if x.dim() == 4 else x, y) for x, y in batches] for batches in ready]

    def train() -> None:
        updates = []
        for batches in ready:
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), lr=LR)
            for x, y in batches:
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            updates.append({name: value - start[name] for name, value in model.state_dict().items()})

    return train


def _opacus_as_it_comes(work: Work, tasks: Sequence[LocalTask]) -> Callable[[], None]:
    """GradSampleModule and DPOptimizer and nothing else: one module for all clients, Poisson batches that lie ready."""
    model = MODELS[work.model]().to(tasks[0].x.device)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    private = GradSampleModule(model, loss_reduction="mean")
    draw = torch.Generator().manual_seed(0)
    drawn = [[torch.rand(task.size, generator=draw) < work.batch / task.size for _ in range(work.steps)] for task in tasks]
    ready = [
        [task.examples(taken.nonzero().squeeze(1)) for taken in batches] for task, batches in zip(tasks, drawn, strict=True)
    ]

    def train() -> None:
        updates = []
        for batches in ready:
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), start, strict=True):
                    parameter.copy_(value)
            plain = torch.optim.SGD(private.parameters(), lr=LR)
            optimizer = DPOptimizer(plain, noise_multiplier=SIGMA, max_grad_norm=CLIP, expected_batch_size=work.batch)
            for x, y in batches:
                optimizer.zero_grad()
                cross_entropy(private(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            updates.append([parameter.detach() - value for parameter, value in zip(model.parameters(), start, strict=True)])

    return train


def _vmap(work: Work, tasks: Sequence[LocalTask]) -> Callable[[], None]:
    """DP-SGD as torch.func writes it: vmap over clients of vmap over examples of the gradient; batches of one size."""
    model = MODELS[work.model]()
    start = {name: value.detach() for name, value in model.named_parameters()}
    ready = [_batches(work, task) for task in tasks]
    draw = torch.Generator().manual_seed(0)

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, weights, (x.unsqueeze(0),)), y.unsqueeze(0))

    gradients = vmap(vmap(grad(loss), (None, 0, 0)), randomness="error")

    def train() -> None:
        weights = {name: value.expand(len(tasks), *value.shape).clone() for name, value in start.items()}
        for step in range(work.steps):
            x, y = (torch.stack([batches[step][part] for batches in ready]) for part in (0, 1))
            each = gradients(weights, x, y)
            norms_KB = torch.stack([value.flatten(2).norm(dim=2) for value in each.values()]).norm(dim=0)
            factors_KB = (CLIP / (norms_KB + 1e-6)).clamp(max=1.0)
            for name, value in each.items():
                summed = torch.einsum("kb,kb...->k...", factors_KB, value)
                noise = torch.randn(summed.shape, generator=draw) * (SIGMA * CLIP)
                weights[name] -= (LR / work.batch) * (summed + noise)

    return train
