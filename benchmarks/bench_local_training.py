"""What does DP-SGD cost a client? One client's round by this project's engine, without privacy, and by PrivacyEngine.

The client has 480 Fashion-MNIST-sized examples, a batch of 32 and one epoch: 15 steps of the cnn, the mlp and logistic
regression, on one thread. PrivacyEngine is used as its documentation shows: a deep copy, ``make_private``, its loader.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Sequence

import torch
from _harness import Figures, Sample, figures, interleaved, options, print_table, write_json
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.learning.models import Model
from privfl.learning.models.cnn import Cnn
from privfl.learning.models.logistic import Logistic
from privfl.learning.models.mlp import Mlp
from privfl.learning.training import LocalTask
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans.example import ExamplePlan
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.vectors import to_vector

EXAMPLES, BATCH, SHAPE, CLASSES = 480, 32, (1, 28, 28), 10
MODELS: dict[str, Model] = {"logistic": Logistic(kind="logistic"), "mlp": Mlp(kind="mlp"), "cnn": Cnn(kind="cnn")}


def measure(kind: Model, repeats: int) -> dict[str, Sample]:
    """Milliseconds of one client's round, three ways, and the ratios to the first."""
    settings = TrainingConfig(local_epochs=1, batch_size=BATCH, lr=0.1)
    plan = ExamplePlan(1.0, 0.5, 1e-5, None, BATCH, 1, None)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, *SHAPE, generator=generator)
    y = torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)
    task = LocalTask(0, EXAMPLES, InputStore(x), y, torch.arange(EXAMPLES), Seed(0))
    model = kind.build(SHAPE, CLASSES)
    start_D = to_vector(model)
    plain = Opacus(kind.build(SHAPE, CLASSES), settings, NoPlan())
    private = Opacus(kind.build(SHAPE, CLASSES), settings, plan)
    taken = interleaved(
        {
            "plain": lambda: plain.train(start_D, [task]),
            "private": lambda: private.train(start_D, [task]),
            "privacy_engine": _by_privacy_engine(model, x, y),
        },
        repeats,
    )
    return {
        "plain_ms": taken["plain"].times(1e3),
        "private_ms": taken["private"].times(1e3),
        "privacy_engine_ms": taken["privacy_engine"].times(1e3),
        "private_over_plain": taken["private"].over(taken["plain"]),
        "privacy_engine_over_private": taken["privacy_engine"].over(taken["private"]),
    }


def _by_privacy_engine(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    def train() -> None:
        local = copy.deepcopy(model)
        optimizer = torch.optim.SGD(local.parameters(), lr=0.1)
        loader = DataLoader(TensorDataset(x, y), batch_size=BATCH)
        private, stepper, batches = PrivacyEngine().make_private(
            module=local, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0, max_grad_norm=0.5
        )
        for x_B, y_B in batches:
            stepper.zero_grad()
            nn.functional.cross_entropy(private(x_B), y_B).backward()  # type: ignore[no-untyped-call]
            stepper.step()

    return train


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures."""
    asked = options(__doc__ or "", argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    measured = {name: measure(kind, 5 if asked.quick else 25) for name, kind in MODELS.items()}
    if asked.json is not None:
        flat: Figures = {}
        for name, samples in measured.items():
            flat |= figures(name, samples)
        write_json(asked.json, flat)
        return 0
    columns = {name: {row: f"{sample:.2f}" for row, sample in samples.items()} for name, samples in measured.items()}
    print_table(f"one client's round: {EXAMPLES} examples, batches of {BATCH}", columns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
