"""On a GPU: what is trained there is what is trained on the CPU, within its memory, and without waiting for it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import MODELS, cohort, model, plan, settings, starting_point
from test_fused_equality import OPACUS_REFUSES
from torch import nn

from privfl.data.input_store import InputStore
from privfl.learning.training import LocalResult, LocalTask
from privfl.learning.training._cohort import CohortState, Pieces
from privfl.learning.training._noise import CohortNoise
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.vectors import to_vector

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

PLANS: list[Plan] = [plan(), plan(scheme="per_layer"), NoPlan()]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
MIB = 2**20


def trained(
    kind: type[Fused | Opacus], name: str, of: Plan, device: str, dtype: torch.dtype = torch.float32, **changes: Any
) -> list[LocalResult]:
    tasks = cohort(name, dtype=dtype)
    x, y = tasks[0].x.to(device), tasks[0].y.to(device)
    start_D = starting_point(model(name, dtype)).to(device)
    trainer = kind(model(name, dtype).to(device), settings(of, **changes), of)
    return trainer.train(start_D, [replace(task, x=x, y=y) for task in tasks])


def far(found: list[LocalResult], expected: list[LocalResult]) -> float:
    pairs = [(one.delta_D.cpu(), other.delta_D.cpu()) for one, other in zip(found, expected, strict=True)]
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("of", PLANS, ids=["private", "per_layer", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_training_is_that_of_the_cpu(name: str, of: Plan, dtype: torch.dtype) -> None:
    found, expected = (trained(Fused, name, of, device, dtype) for device in ("cuda", "cpu"))
    assert far(found, expected) < TOLERANCES[dtype]
    assert [one.event for one in found] == [one.event for one in expected]
    assert [one.loss for one in found] == pytest.approx([one.loss for one in expected], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in OPACUS_REFUSES])
def test_the_reference_and_this_engine_draw_the_same_batches_and_noise(name: str) -> None:
    of = plan(noise_multiplier=0.8, local_steps=5, batch_size=3)
    found, expected = (trained(kind, name, of, "cuda", momentum=0.5) for kind in (Fused, Opacus))
    assert far(found, expected) < 1e-5
    assert [(one.event, one.clipped_share) for one in found] == [(one.event, one.clipped_share) for one in expected]


@pytest.mark.parametrize("kind", [Fused, Opacus])
def test_dropout_is_no_mixing(kind: type[Fused | Opacus]) -> None:
    """Its zeros are drawn from the GPU's own generator."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)).cuda()
    of, start_D = plan(noise_multiplier=0.8), to_vector(module)
    y = torch.arange(12, device="cuda") % 3
    one = LocalTask(0, 12, InputStore(torch.randn(12, 5, device="cuda")), y, torch.arange(12), Seed(0))
    found = [kind(module, settings(of), of).train(start_D, [one])[0].delta_D for _ in range(2)]
    assert torch.equal(*found)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("of", PLANS, ids=["private", "per_layer", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_nobody_waits_within_a_step(name: str, of: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            with waiting_is_an_error():
                return original(*args, **kwargs)

        return called

    for kind, method in ((Pieces, "accumulate"), (CohortState, "step"), (CohortNoise, "begin"), (CohortNoise, "end")):
        monkeypatch.setattr(kind, method, strict(getattr(kind, method)))
    assert trained(Fused, name, of, "cuda")


@pytest.mark.parametrize("budget", [64, 256])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_large_cohort_keeps_to_its_budget(name: str, budget: int) -> None:
    """Beside the data, the model and the updates; the allocator's blocks are allowed a half more."""
    of, sizes = plan(noise_multiplier=1.0, batch_size=32), (64,) * 400
    tasks = cohort(name, sizes)
    x, y = tasks[0].x.to("cuda"), tasks[0].y.cuda()
    start_D = starting_point(model(name)).cuda()
    trainer = Fused(model(name).cuda(), settings(of, memory_budget=budget), of)
    ready = [replace(task, x=x, y=y) for task in tasks]
    trainer.train(start_D, ready[:2])
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = trainer.train(start_D, ready)
    updates = sum(one.delta_D.nbytes for one in found)
    assert torch.cuda.max_memory_allocated() - before - updates < 1.5 * budget * MIB
