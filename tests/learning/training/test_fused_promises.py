"""The fused engine keeps the promises that the reference keeps, and is caught when it is broken on purpose."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_checks import (
    CHECKS,
    Build,
    check_clients_are_independent,
    check_denominator_is_fixed,
    check_noise,
    check_noise_without_data,
    check_non_finite_example_is_a_zero,
    check_sensitivity,
    check_step_is_the_clipped_mean,
    task,
    train,
    training,
)
from engine_checks import plan as small_plan
from engines import CONVOLUTIONS, MODELS, WORDS, cohort, model, plan, settings, starting_point, without_the_last
from torch import Tensor, nn

from privfl.data.input_store import InputStore
from privfl.errors import ModelError, PrivacyError
from privfl.learning.training import LocalTask, _cohort, _passes, fused
from privfl.learning.training._noise import CohortNoise
from privfl.learning.training._rules import Runs, convolution
from privfl.learning.training._rules.convolution import ConvolutionRecord
from privfl.learning.training._rules.embedding import LookupRecord
from privfl.learning.training._rules.products import ProductRecord
from privfl.learning.training.fused import Fused
from privfl.seeding import Seed
from privfl.vectors import to_vector


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("check", CHECKS)
def test_promises(check: Callable[[Build], None], padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)
    check(Fused)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", MODELS)
def test_one_example_moves_the_sum_by_at_most_the_clip(name: str, scale: float) -> None:
    """In one step at rate 1 and without noise, lr = N: the update is the sum of the clipped gradients itself."""
    of = plan(batch_size=10**6, local_steps=1, noise_multiplier=1e-13, max_grad_norm=0.05)
    tasks = cohort(name, (7, 5), scale=scale)
    start_D = starting_point(model(name)).double()
    with_it, without = (
        Fused(model(name).double(), settings(of, lr=7.0), of).train(start_D, [_double(change(tasks[0])), _double(tasks[1])])
        for change in (lambda one: one, without_the_last)
    )
    moved = float((with_it[0].delta_D - without[0].delta_D).norm())
    assert moved <= of.max_grad_norm * (1 + 1e-5)
    assert with_it[0].event == without[0].event
    # Nor does it move anybody else.
    assert torch.allclose(with_it[1].delta_D, without[1].delta_D, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_one_example_moves_the_sum_by_at_most_the_clip_by_the_library(
    name: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "library_pays", lambda *_: True)
    test_one_example_moves_the_sum_by_at_most_the_clip(name, scale)


@pytest.mark.parametrize("name", [name for name, (shape, _) in MODELS.items() if shape != WORDS])
def test_an_example_that_overflows_is_as_if_it_were_not_there(name: str) -> None:
    of = plan(batch_size=10**6, local_steps=1)
    tasks, start_D = cohort(name, (7, 5)), starting_point(model(name))
    without = Fused(model(name), settings(of), of).train(start_D, [without_the_last(tasks[0]), tasks[1]])
    tasks[0].x.kept[tasks[0].rows_n[-1]] = torch.inf
    with_it = Fused(model(name), settings(of), of).train(start_D, tasks)
    for one, other in zip(with_it, without, strict=True):
        assert torch.allclose(one.delta_D, other.delta_D, rtol=1e-4, atol=1e-6)


def _double(one: Any) -> Any:
    return replace(one, x=InputStore(one.x.kept.double())) if one.x.kept.is_floating_point() else one


class Summed(nn.Module):
    """A product over positions, one after another, whose gradient an unkind global model makes huge."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(784, 40, bias=False), nn.Linear(40, 4, bias=False)
        with torch.no_grad():
            self.first.weight.zero_()
            self.last.weight.zero_()
            self.last.weight[0], self.last.weight[1] = 1e18, -1e18

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(x).sum(1))
        return logits


@pytest.mark.parametrize("positions", [1, 2, 60])
@pytest.mark.parametrize(("size", "flush"), [(2.6e-23, False), (1e-20, True)])
def test_a_norm_is_not_too_small_where_squares_vanish(positions: int, size: float, flush: bool) -> None:
    """Inputs of 2.6e-23 have squares that no float32 has, those of 1e-20 some that are flushed to zero on a GPU; gradients of
    1e18 wait for them."""
    of = plan(batch_size=10**6, local_steps=1, noise_multiplier=1e-13, max_grad_norm=1e-3)
    x = torch.zeros(6, positions, 784)
    x[5] = size
    one = LocalTask(0, 6, InputStore(x), torch.tensor([0, 1, 2, 3, 0, 1]), torch.arange(6), Seed(1))
    start_D = starting_point(Summed())
    try:
        # The setting is that of this thread alone, and there is no other.
        torch.set_flush_denormal(flush)
        with_it, without = (
            Fused(Summed(), settings(of, lr=6.0), of).train(start_D, [task])[0].delta_D for task in (one, without_the_last(one))
        )
    finally:
        torch.set_flush_denormal(False)
    assert float((with_it.double() - without.double()).norm()) <= of.max_grad_norm * (1 + 1e-5)


class Pooled(nn.Module):
    """A layer at 16 positions, and their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(128, 128), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.layer(x).sum(1))
        return logits


@pytest.mark.parametrize("label", range(3))
@pytest.mark.parametrize("square", [1.2e37, 1.6e37, 1.8e37, 2e37, 2.1e37])
def test_a_norm_that_overflows_is_no_small_one(square: float, label: int) -> None:
    """Inner products of some positions are huge and of others as huge below zero: their sum is minus infinity in float32."""
    torch.manual_seed(0)
    module, of = Pooled(), small_plan(batch_size=10**6, noise_multiplier=1e-9)
    sizes = torch.full((16,), square**0.5)
    sizes[0] *= -4
    direction = torch.linalg.svd(module.layer.weight.detach())[2][-1]
    one = LocalTask(0, 1, InputStore((sizes[:, None] * direction)[None]), torch.tensor([label]), torch.arange(1), Seed(0))
    (found,) = Fused(module, training(of, lr=1.0), of).train(to_vector(module), [one])
    assert float(found.delta_D.norm()) <= of.max_grad_norm * (1 + 1e-5) + 1e-6


def test_a_norm_of_rows_that_overflows_is_no_small_one() -> None:
    g_NLE = torch.full((1, 16, 4), 2e18)
    g_NLE[0, 0] *= -4
    record = LookupRecord(Runs((1,)), torch.zeros(1, 16, dtype=torch.int64), g_NLE, "table")
    true = float(g_NLE.double().sum(1).square().sum())
    assert not float(record.square_norms()) < true * (1 - 1e-5)


def test_a_ghost_norm_is_never_too_small() -> None:
    """Where positions nearly cancel, rounding makes some norms too small, and would leave the clipped gradients too long."""
    draw = torch.Generator().manual_seed(0)
    a, g = torch.randn(500, 1, 1, 30, generator=draw), torch.randn(500, 1, 1, 40, generator=draw)
    a, g = torch.cat([a, a], dim=2), torch.cat([g, -g * (1 + 1e-4)], dim=2)
    true = torch.matmul(g.double().transpose(2, 3), a.double()).square().sum((1, 2, 3))
    squares = ProductRecord(Runs((500,)), a, g, {"weight": "w"}).square_norms()
    assert bool((squares.double() >= true * (1 - 1e-5)).all())
    # They are right where nothing cancels.
    whole = ProductRecord(Runs((500,)), a, g.abs(), {"weight": "w"}).square_norms()
    true = torch.matmul(g.abs().double().transpose(2, 3), a.double()).square().sum((1, 2, 3))
    assert torch.allclose(whole.double(), true, rtol=1e-5)


# --- broken on purpose ------------------------------------------------------------------------------------------------


def drop_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _passes.clip_factors
    monkeypatch.setattr(_cohort, "clip_factors", lambda tape, clip: original(tape, replace(clip, max_grad_norm=1e6)))


def halve_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CohortNoise.draw
    monkeypatch.setattr(CohortNoise, "draw", lambda self, noise_KD: original(self, noise_KD).mul_(0.5))


def keep_the_last_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accumulator is not emptied between two steps."""
    original = fused.fresh

    def keeping(sums_KD: Tensor, noise: CohortNoise | None) -> Tensor:
        kept_KD = sums_KD.nan_to_num()
        return original(sums_KD, noise).add_(kept_KD)

    monkeypatch.setattr(fused, "fresh", keeping)


def drop_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _cohort.Pieces._examples

    def all_count(self: Any, *args: Any) -> Any:
        x, y, counts_N = original(self, *args)
        return x, y, None if counts_N is None else torch.ones_like(counts_N)

    monkeypatch.setattr(_cohort, "pads", lambda _: True)
    monkeypatch.setattr(_cohort.Pieces, "_examples", all_count)


def divide_by_the_realised_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Fused._job

    def realised(self: Any, one: Any) -> Any:
        job: Any = original(self, one)
        assert job.todo is not None
        return replace(job, todo=job.todo.model_copy(update={"expected_batch_size": float(max(job.examples, 1))}))

    monkeypatch.setattr(Fused, "_job", realised)


def skip_empty_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CohortNoise.draw

    def skipping(self: Any, noise_KD: Tensor) -> Tensor:
        return original(self, noise_KD).zero_()  # after it was counted and measured

    monkeypatch.setattr(CohortNoise, "draw", skipping)


def reuse_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneStream(Seed):
        def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
            return Seed(self.root, tuple(part for part in self.path if not isinstance(part, int))).torch(device)

        def __truediv__(self, name: str | int) -> Seed:
            return OneStream(self.root, (*self.path, name))

    original = Fused._job
    monkeypatch.setattr(
        Fused, "_job", lambda self, one: original(self, replace(one, seed=OneStream(one.seed.root, one.seed.path)))
    )


def let_infinity_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProductRecord, "drop", lambda self, bad_N: None)


@pytest.mark.parametrize(
    ("mutation", "check"),
    [
        (drop_the_clip, check_sensitivity),
        (drop_the_clip, check_step_is_the_clipped_mean),
        (halve_the_noise, check_noise),
        (halve_the_noise, check_noise_without_data),
        (skip_empty_steps, check_noise_without_data),
        (divide_by_the_realised_batch, check_denominator_is_fixed),
        (divide_by_the_realised_batch, check_noise_without_data),
        (reuse_a_seed, check_clients_are_independent),
        (let_infinity_through, check_non_finite_example_is_a_zero),
    ],
)
def test_a_broken_engine_is_caught(
    mutation: Callable[[pytest.MonkeyPatch], None], check: Callable[[Build], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    with pytest.raises((AssertionError, PrivacyError)):
        check(Fused)


def sum_of_the_finite(dtype: torch.dtype) -> float:
    """How far a step on images of which one overflows is from the clipped gradients of the others."""
    of = plan(batch_size=10**6, local_steps=1)
    (images,) = cohort("convolution", (6,), dtype=dtype)
    start_D = starting_point(model("convolution", dtype))

    def step(x: Tensor, y: Tensor) -> Tensor:
        one = replace(images, x=InputStore(x), y=y, rows_n=torch.arange(len(y)), size=len(y))
        return Fused(model("convolution", dtype), settings(of), of).train(start_D, [one])[0].delta_D

    x, y = images.examples(torch.arange(6))
    alone = [step(x[i : i + 1], y[i : i + 1]) for i in range(6) if i != 2]
    x[2] = torch.inf
    found_D, expected_D = step(x, y), torch.stack(alone).sum(0) / 6
    return float((found_D - expected_D).norm() / expected_D.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_image_that_overflows_is_a_zero(dtype: torch.dtype) -> None:
    assert sum_of_the_finite(dtype) < 1e-5


def test_an_image_that_is_not_dropped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConvolutionRecord, "drop", lambda self, bad_N: None)
    assert not sum_of_the_finite(torch.float32) < 1e-5


def test_a_convolution_that_forgets_a_norm_is_found_out_before_any_data_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConvolutionRecord, "square_norms", lambda self: self._bias_gradients().square().sum(1))
    with pytest.raises(ModelError, match="the norm of an example's gradient"):
        sum_of_the_finite(torch.float32)


@pytest.mark.parametrize("mutation", [keep_the_last_sum, drop_the_mask, drop_the_clip])
def test_a_broken_step_is_caught_beside_autograd(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_fused_equality import difference

    mutation(monkeypatch)
    assert difference("convolution", plan(), torch.float64) > 1e-3


def test_a_rule_that_forgets_a_norm_is_found_out_before_any_data_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProductRecord, "square_norms", lambda self: self._bias_gradients().square().sum(1))
    with pytest.raises(ModelError, match="the norm of an example's gradient"):
        train(Fused, small_plan(), task())


def test_a_rule_that_sums_wrongly_is_found_out_before_any_data_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ProductRecord.add
    monkeypatch.setattr(ProductRecord, "add", lambda self, factors_N, sums: [original(self, factors_N, sums) for _ in "12"])
    with pytest.raises(ModelError, match=r"1\.weight: the fused engine finds another gradient"):
        train(Fused, small_plan(), task())


def test_a_missed_noise_draw_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CohortNoise.draw

    def forgetting(self: Any, noise_KD: Tensor) -> Tensor:
        self.draws[0] -= 1
        return original(self, noise_KD)

    monkeypatch.setattr(CohortNoise, "draw", forgetting)
    with pytest.raises(PrivacyError, match="0 noise draws in 1 steps"):
        train(Fused, small_plan(), task())


def test_noise_that_is_too_small_is_caught_as_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Tensor.normal_
    monkeypatch.setattr(Tensor, "normal_", lambda self, mean, std, **rest: original(self, mean, std / 2, **rest))
    with pytest.raises(PrivacyError, match=r"noise of standard deviation 0\.2\d+ was drawn, 0\.5 is accounted"):
        train(Fused, small_plan(local_steps=30), task())
