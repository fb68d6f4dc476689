"""What a step asks of a device, seen without one: on PyTorch's ``meta`` device, where no number can be looked at.

Whatever would make the host wait for a GPU (a question about values, a length that depends on them) fails there, as does what
is computed on another device than the rest. The kernels of a step are those operations that make a new tensor or write one.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import MODELS, cohort, model, plan, settings, starting_point
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from privfl.errors import ModelError
from privfl.learning.optimizers.adam import Adam
from privfl.learning.optimizers.adamw import AdamW
from privfl.learning.schedules.cosine import Cosine
from privfl.learning.training import _cohort, _passes
from privfl.learning.training._budget import Limits
from privfl.learning.training._noise import CohortNoise
from privfl.learning.training._rules import Runs
from privfl.learning.training.fused import Fused
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed

META = torch.device("meta")
PLANS: list[Plan] = [plan(), plan(scheme="per_layer"), NoPlan()]


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations on the device by name, but for views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        out = found if isinstance(found, tuple | list) else (found,)
        # Which gives away what was made, and launches nothing.
        given = func is torch.ops.aten._unsafe_view.default
        if not (func.is_view or given) and any(isinstance(one, Tensor) and one.device == META for one in out):
            self.counts[str(func)] += 1
        return found


@pytest.fixture(autouse=True)
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cohort's figures are read once, when all its steps are under way; here nobody can read them."""
    monkeypatch.setattr(Fused, "_results", lambda self, jobs, *_: jobs)
    monkeypatch.setattr(CohortNoise, "require", lambda *_: None)
    real = Seed.torch
    monkeypatch.setattr(Seed, "torch", lambda self, device="cpu": None if torch.device(device) == META else real(self, device))


def kernels(name: str, of: Plan, sizes: tuple[int, ...], module: nn.Module | None = None, **changes: Any) -> Counter[str]:
    """What a cohort's training asks of the device."""
    built = module or model(name)
    start_D = starting_point(built).to(META)
    trainer = Fused(built.to(META), settings(of, **changes), of)
    # Both are looked for once a run, with a look at numbers.
    trainer._limits, trainer._apart = Limits(100, 10**6), True
    trainer._cohort.shared.anchor = torch.zeros((), device=META, requires_grad=True)
    tasks = cohort(name, sizes)
    x, y = tasks[0].x.to(META), tasks[0].y.to(META)
    seen = Kernels()
    with seen:
        trainer._train(start_D, [replace(task, x=x, y=y) for task in tasks])
    return seen.counts


@pytest.mark.parametrize("of", PLANS, ids=["private", "per_layer", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_nobody_waits_for_the_device_within_a_step(name: str, of: Plan) -> None:
    assert kernels(name, of, (9, 2, 6))


OPTIMIZERS: list[dict[str, Any]] = [
    {"momentum": 0.5, "weight_decay": 0.1},
    {"optimizer": Adam(kind="adam"), "weight_decay": 0.1},
    {"optimizer": AdamW(kind="adamw"), "weight_decay": 0.1, "step_schedule": Cosine(kind="cosine"), "max_grad_norm": 1.0},
]


@pytest.mark.parametrize("of", [PLANS[0], PLANS[2]], ids=["private", "plain"])
@pytest.mark.parametrize("changes", OPTIMIZERS, ids=["momentum", "adam", "adamw"])
def test_no_optimizer_asks_or_is_a_loop_over_clients(changes: dict[str, Any], of: Plan) -> None:
    few, many = (kernels("residual", of, (9, 2, 6, 4) * times, **changes) for times in (1, 4))
    for one in (few, many):
        one.pop("aten.normal_.default", 0)
    assert abs(few.total() - many.total()) <= 3 * 3


@pytest.mark.parametrize("of", PLANS, ids=["private", "per_layer", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_a_larger_cohort_is_no_more_kernels(name: str, of: Plan) -> None:
    """But for noise, of which each client draws its own, in one call."""
    few, many = (kernels(name, of, (9, 2, 6, 4) * times) for times in (1, 4))
    steps = 3
    assert few.pop("aten.normal_.default", 0) == (4 * steps if of is not PLANS[2] else 0)
    assert many.pop("aten.normal_.default", 0) == (16 * steps if of is not PLANS[2] else 0)
    # Batches are drawn, so that in some step all may be of one length in one cohort and not in the other.
    assert abs(few.total() - many.total()) <= 3 * steps


class Waste(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds what Python writes into itself (``x[...] += y``), and reductions for which a whole copy is made in another type."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default and _place(args[0]) == _place(args[1]):
            self.found.append(str(func))
        wanted = (kwargs or {}).get("dtype")
        if func.overloadpacket in (torch.ops.aten.linalg_vector_norm, torch.ops.aten.sum) and wanted not in (
            None,
            args[0].dtype,
        ):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


@pytest.mark.parametrize("of", [PLANS[0], PLANS[2]], ids=["private", "plain"])
@pytest.mark.parametrize("name", ["cnn", "convolution, blocks of a stride", "linear by ghost norms", "no rule"])
def test_a_step_copies_nothing_onto_itself_or_whole_into_another_type(name: str, of: Plan) -> None:
    seen = Waste()
    with seen:
        kernels(name, of, (9, 2, 6))
    assert not seen.found


def test_both_kinds_of_waste_are_found() -> None:
    seen, x = Waste(), torch.zeros(4)
    with seen:
        x[:2] += 1.0
        torch.linalg.vector_norm(x, dtype=torch.float64)
    assert seen.found == ["aten.copy_.default", "aten.linalg_vector_norm.default"]


# --- broken on purpose ------------------------------------------------------------------------------------------------


def ask_for_each_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _passes.run_pass

    def asking(*args: Any, **kwargs: Any) -> Any:
        losses_N, tape = original(*args, **kwargs)
        return losses_N * float(losses_N.sum()), tape

    monkeypatch.setattr(_cohort, "run_pass", asking)


def ask_whether_all_are_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _passes.clip_factors

    def asking(*args: Any) -> Any:
        factors, clipped_N, finite_N = original(*args)
        return (factors, clipped_N, finite_N) if bool(finite_N.all()) else ([], clipped_N, finite_N)

    monkeypatch.setattr(_cohort, "clip_factors", asking)


def leave_indices_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cohort, "sent", lambda tensor, device: tensor)


@pytest.mark.parametrize("mutation", [ask_for_each_loss, ask_whether_all_are_finite, leave_indices_behind])
def test_a_question_or_a_tensor_elsewhere_is_found(mutation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises((RuntimeError, NotImplementedError)):
        kernels("cnn", PLANS[0], (9, 2, 6))


def test_a_loop_over_clients_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Runs.clients

    def looping(self: Runs, device: torch.device) -> Tensor:
        for size in self.sizes:
            torch.zeros(size, device=device)
        return original(self, device)

    monkeypatch.setattr(Runs, "clients", looping)
    with pytest.raises(AssertionError):
        test_a_larger_cohort_is_no_more_kernels("cnn", PLANS[0])


def test_models_of_any_kind_are_among_them() -> None:
    """A layer that looks at numbers by itself has no way around waiting, and shows here."""

    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises((RuntimeError, NotImplementedError, ModelError)):
        kernels("linear", PLANS[0], (9, 2, 6), nn.Sequential(Looking(), nn.Linear(6, 4)))
