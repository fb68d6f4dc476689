"""The reference engine keeps its promises, refuses what would break them, and is caught when it is broken on purpose."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_checks import (
    CHECKS,
    INPUTS,
    Build,
    check_clients_are_independent,
    check_denominator_is_fixed,
    check_noise,
    check_noise_without_data,
    check_non_finite_example_is_a_zero,
    check_sensitivity,
    check_step_is_the_clipped_mean,
    linear,
    plain,
    plan,
    task,
    train,
    training,
)
from opacus.optimizers import DPOptimizer
from opacus.optimizers import optimizer as opacus_noise
from torch import Tensor, nn

from privfl.data.input_store import InputStore
from privfl.errors import ModelError, PrivacyError
from privfl.learning.training import LocalTask, opacus
from privfl.learning.training.opacus import CountingDPOptimizer, Opacus
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.vectors import to_vector


@pytest.mark.parametrize("check", CHECKS)
def test_promises(check: Callable[[Build], None]) -> None:
    check(Opacus)


# --- broken on purpose ----------------------------------------------------------------------------------------------


def drop_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    original = DPOptimizer.__init__

    def unclipped(self: Any, *args: Any, max_grad_norm: float, **kwargs: Any) -> None:
        original(self, *args, max_grad_norm=max_grad_norm * 1e6, **{**kwargs, "noise_multiplier": 1e-12})

    monkeypatch.setattr(DPOptimizer, "__init__", unclipped)


def halve_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    original = DPOptimizer.__init__

    def quieter(self: Any, *args: Any, noise_multiplier: float, **kwargs: Any) -> None:
        original(self, *args, noise_multiplier=noise_multiplier / 2, **kwargs)

    monkeypatch.setattr(DPOptimizer, "__init__", quieter)


def skip_empty_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CountingDPOptimizer.step

    def skipping(self: Any, *args: Any) -> Any:
        if len(self.grad_samples[0]) == 0:
            self.noise_draws += 1  # and lie about it
            return None
        return original(self, *args)

    monkeypatch.setattr(CountingDPOptimizer, "step", skipping)


def divide_by_the_realised_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CountingDPOptimizer.clip_and_accumulate

    def realised(self: Any) -> None:
        self.expected_batch_size = max(len(self.grad_samples[0]), 1)
        original(self)

    monkeypatch.setattr(CountingDPOptimizer, "clip_and_accumulate", realised)


def reuse_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneStream(Seed):
        def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
            return Seed(self.root, tuple(part for part in self.path if not isinstance(part, int))).torch(device)

        def __truediv__(self, name: str | int) -> Seed:
            return OneStream(self.root, (*self.path, name))

    original = Opacus._train_one

    def same_stream(self: Any, global_D: Tensor, one: Any) -> Any:
        return original(self, global_D, replace(one, seed=OneStream(one.seed.root, one.seed.path)))

    monkeypatch.setattr(Opacus, "_train_one", same_stream)


def let_infinity_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opacus.CountingDPOptimizer, "clip_and_accumulate", DPOptimizer.clip_and_accumulate)


@pytest.mark.parametrize(
    ("mutation", "check"),
    [
        (drop_the_clip, check_sensitivity),
        (drop_the_clip, check_step_is_the_clipped_mean),
        (halve_the_noise, check_noise),
        (halve_the_noise, check_noise_without_data),
        (skip_empty_batches, check_noise_without_data),
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
        check(Opacus)


def test_a_missed_noise_draw_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CountingDPOptimizer.step

    def skipping(self: Any, *args: Any) -> Any:
        return None if len(self.grad_samples[0]) == 0 else original(self, *args)

    monkeypatch.setattr(CountingDPOptimizer, "step", skipping)
    with pytest.raises(PrivacyError, match="noise draws"):
        train(Opacus, plan(batch_size=1, local_steps=200), task(40))


def test_noise_that_is_too_small_is_caught_as_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    original = opacus_noise._generate_noise
    monkeypatch.setattr(opacus_noise, "_generate_noise", lambda std, **rest: original(std=std / 2, **rest))
    with pytest.raises(PrivacyError, match=r"noise of standard deviation 0\.2\d+ was drawn, 0\.5 is accounted"):
        train(Opacus, plan(local_steps=30), task())


def test_the_event_is_what_was_done_and_not_what_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    halve_the_noise(monkeypatch)
    event = train(Opacus, plan(noise_multiplier=3.0), task())[0].event
    assert event is not None
    assert event.noise_multiplier == 1.5


def test_one_example_more_or_less_shows_in_nothing_but_the_gradients() -> None:
    """64 and 65 examples would be two and three batches of 32; the number of steps comes from the public size."""
    of, one = plan(batch_size=32, local_steps=None, local_epochs=1), task(65)
    fewer = replace(one, rows_n=one.rows_n[:-1])
    assert train(Opacus, of, one)[0].event == train(Opacus, of, fewer)[0].event


# --- what it refuses ------------------------------------------------------------------------------------------------


class MixesTheBatch(nn.Module):
    """A normalisation that no list of layer types knows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x)
        return logits - logits.mean(0)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm1d(INPUTS), "BatchNorm1d"),
        (nn.BatchNorm1d(INPUTS, affine=False, track_running_stats=False), "BatchNorm1d"),
        (nn.BatchNorm1d(INPUTS).requires_grad_(False), "BatchNorm1d"),
        (nn.SyncBatchNorm(INPUTS), "SyncBatchNorm"),
    ],
)
def test_batch_norm_is_refused_however_it_is_dressed(layer: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Opacus(nn.Sequential(layer, nn.Linear(INPUTS, 3)), training(plan()), plan())


def test_a_layer_that_mixes_the_batch_is_found_by_trying() -> None:
    with pytest.raises(ModelError, match="depends on the other examples"):
        train(Opacus, plan(), task(), model=MixesTheBatch())


def test_channels_last_is_refused_because_opacus_gets_its_gradients_wrong() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 4, 3))

    one = task(10)
    images = replace(one, x=InputStore(torch.randn(10, 1, 6, 6, generator=torch.Generator().manual_seed(0))))
    train(Opacus, plan(), images, model=model())
    with pytest.raises(ModelError, match="channels_last"):
        train(Opacus, plan(), images, model=model().to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def test_the_norm_of_many_equal_entries_is_not_too_small() -> None:
    """A float32 sum of the squares of eight million equal numbers is a hundredth too large or, as here, too small."""
    of, wide = plan(noise_multiplier=1e-9, batch_size=10**6), 4_000_000
    one = LocalTask(0, 1, InputStore(torch.full((1, wide), 0.6)), torch.tensor([0]), torch.arange(1), Seed(0))
    (found,) = train(Opacus, of, one, model=nn.Linear(wide, 2), lr=1.0)
    assert float(found.delta_D.double().norm()) <= of.max_grad_norm * (1 + 2e-5)


def test_an_empty_batch_of_a_large_layer_is_a_step_like_others() -> None:
    """Of 60 batches of expected size 1, about 22 are empty; at least one is but for e^-27."""
    of = plan(batch_size=1, local_steps=60)
    images = InputStore(torch.ones(40, 3000))
    (found,) = train(Opacus, of, replace(task(), x=images), model=nn.Linear(3000, 3))
    assert found.event is not None
    assert found.event.steps == 60


def test_a_parameter_without_gradient_is_refused() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(INPUTS, 3), nn.Linear(INPUTS, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.used(x)
            return logits

    with pytest.raises(ModelError, match=r"idle.* got no gradient"):
        train(Opacus, plan(), task(), model=Idle())


# --- between clients ------------------------------------------------------------------------------------------------


def test_no_state_goes_from_one_client_to_the_next() -> None:
    """Momentum above all: client 1's result is the same whether client 0 trained before it or not."""
    of = plan(local_steps=5)
    first, second = task(seed=Seed(1)), task(seed=Seed(2), client=1)
    together = train(Opacus, of, first, second, momentum=0.9)
    alone = train(Opacus, of, second, momentum=0.9)
    assert torch.equal(together[1].delta_D, alone[0].delta_D)


def test_the_same_streams_give_the_same_bytes() -> None:
    of = plan(local_steps=5)
    once, again = train(Opacus, of, task())[0], train(Opacus, of, task())[0]
    assert torch.equal(once.delta_D, again.delta_D)
    assert once == replace(again, delta_D=once.delta_D)


def test_dropout_draws_from_the_client_s_stream_and_leaves_the_global_one_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    start_D = to_vector(model)
    trainer = Opacus(model, training(NoPlan()), NoPlan())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = trainer.train(start_D, [task(seed=Seed(1))])[0].delta_D
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(trainer.train(start_D, [task(seed=Seed(1))])[0].delta_D, first)


def test_clipped_share_counts_long_gradients() -> None:
    assert train(Opacus, plan(max_grad_norm=1e-6), task())[0].clipped_share == 1.0
    assert train(Opacus, plan(max_grad_norm=1e6), task())[0].clipped_share == 0.0


# --- without privacy ------------------------------------------------------------------------------------------------


def test_plain_training_is_sgd_on_the_mean_loss() -> None:
    one = task()
    torch.manual_seed(0)
    model = linear()
    nn.functional.cross_entropy(model(one.x[:]), one.y).backward()  # type: ignore[no-untyped-call]
    expected = -torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    result = plain(Opacus, batch_size=40)
    assert torch.allclose(result.delta_D, expected, atol=1e-6)
    assert result.event is None
