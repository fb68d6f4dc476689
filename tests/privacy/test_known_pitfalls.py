"""The twelve ways in which libraries were seen to break privacy in silence, each against privfl, by number.

What an engine must keep is put to both of them. Where a check stands elsewhere it is called from there.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixed_updates import D, central, denominator, play, updates
from scipy import stats
from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.errors import ModelError
from privfl.federation.server_state import ServerState
from privfl.learning.tasks.classification import Classification
from privfl.learning.training import LocalTask, LocalWork, Trainer, opacus
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy import accounting
from privfl.privacy.events import CohortSum
from privfl.privacy.ledger import Account, Ledger
from privfl.privacy.mechanisms import History, PoissonGaussian
from privfl.privacy.plans._clipping import AdaptiveClipping
from privfl.privacy.plans.client_central import CentralPlan
from privfl.privacy.plans.example import ExamplePlan
from privfl.privacy.sampling import private_batches
from privfl.seeding import Seed
from privfl.vectors import to_vector

ERROR = 1e-4
INPUTS, CLASSES = 6, 3
ENGINES: list[type[Trainer]] = [Opacus, Fused]
ADAPTIVE = AdaptiveClipping(kind="adaptive", lr=2.0)


def plan(**changes: Any) -> ExamplePlan:
    settings: dict[str, Any] = {
        "noise_multiplier": 1e-9,
        "max_grad_norm": 0.5,
        "delta": 1e-5,
        "budget": None,
        "batch_size": 10**6,
        "local_epochs": None,
        "local_steps": 1,
    }
    return ExamplePlan(**{**settings, **changes})


def data(examples: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(seed)
    x = torch.from_numpy(draw.normal(size=(examples, INPUTS)).astype(np.float32))
    return x, torch.from_numpy(draw.integers(0, CLASSES, examples))


def trained(engine: type[Trainer], of: ExamplePlan, x: Tensor, y: Tensor, *, size: int = 12, mu: float = 0.0) -> Tensor:
    """The update of one client with those examples and that public size, by streams that are always the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, CLASSES))
    config = TrainingConfig(local_steps=of.local_steps, batch_size=of.batch_size, lr=1.0)
    task = LocalTask(0, size, InputStore(x), y, torch.arange(len(y)), Seed(7), LocalWork(mu=mu))
    return engine(model, config, of).train(to_vector(model), [task])[0].delta_D


def of_training(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A check that is put to the engines elsewhere."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "learning" / "training"))
    return getattr(importlib.import_module("engine_checks"), name)


def norms(plan: CentralPlan, rounds: int, others: dict[int, Tensor]) -> list[ServerState]:
    """The states that rounds of an adaptive plan begin with."""
    states = [ServerState(0, torch.zeros(D), {}, plan.initial(torch.device("cpu")))]
    for number in range(rounds):
        states.append(play(plan, others, state=states[-1], number=number).state)
    return states


def test_trap_1_adaptive_clipping_that_clips_nothing() -> None:
    """One client, however long its update, moves the sum by at most the norm that its round has, falling or rising."""
    for begin, scale in ((50.0, 0.01), (0.01, 3.0)):
        plan_ = central(adaptive=ADAPTIVE, max_update_norm=begin, sampler="all", size=12)
        others = updates(5, scale=scale)
        states = norms(plan_, 12, others)
        reached = [float(state.plan["norm"]) for state in states]
        assert max(reached) > 5 * min(reached)
        for number, state in enumerate(states[:-1]):
            for one in (torch.full((D,), 1e30), torch.full((D,), torch.inf), updates(1, seed=number, scale=1e4)[0]):
                with_it, without = (play(plan_, deltas, state=state, number=number) for deltas in ({**others, 7: one}, others))
                moved = (with_it.state.global_D - without.state.global_D).double().norm() * plan_.size
                (event,) = with_it.events.values()
                assert isinstance(event, CohortSum)
                assert event.max_update_norm == reached[number]
                # A mean is handed on in float32.
                assert float(moved) <= reached[number] * (1 + 1e-4) + 2e-5


def test_trap_2_noise_that_does_not_follow_the_norm() -> None:
    """Round by round the noise is z times the norm of that very round, by χ², while the norm moves more than fivefold."""
    plan_, standard, reached = (
        central(adaptive=ADAPTIVE, noise_multiplier=0.3, max_update_norm=50.0),
        list[Tensor](),
        set[float](),
    )
    zeros = {client: torch.zeros(D) for client in range(4)}
    for seed in range(12):
        state = ServerState(0, torch.zeros(D), {}, plan_.initial(torch.device("cpu")))
        for number in range(12):
            outcome = play(plan_, zeros, seed=Seed(seed), state=state, number=number)
            (event,) = outcome.events.values()
            assert isinstance(event, CohortSum)
            noise_D = (outcome.state.global_D - state.global_D).double() * denominator(plan_, zeros)
            standard.append(noise_D / (event.noise_multiplier * float(state.plan["norm"])))
            reached.add(float(state.plan["norm"]))
            state = outcome.state
    assert max(reached) > 5 * min(reached)
    squares = torch.stack(standard).square().mean(1)
    low, high = stats.chi2.ppf([ERROR / 2, 1 - ERROR / 2], D * len(squares)) / (D * len(squares))
    assert low <= float(squares.mean()) <= high
    # No round by itself is out of line: the largest and the smallest of so many.
    least, most = stats.chi2.ppf([ERROR / len(squares), 1 - ERROR / len(squares)], D) / D
    assert least <= float(squares.min()) <= float(squares.max()) <= most


def added_by_the_last(engine: type[Trainer], labels: Tensor) -> Tensor:
    """What the last example adds to a full batch, unclipped, where the others have these labels."""
    of, (x, y) = plan(max_grad_norm=1e6), data()
    y = torch.cat([labels, y[-1:]])
    return trained(engine, of, x, y) - trained(engine, of, x[:-1], y[:-1])


@pytest.mark.parametrize("engine", ENGINES)
def test_trap_3_a_normaliser_of_the_loss_that_depends_on_the_batch(engine: type[Trainer]) -> None:
    """An example's part in the sum is the same whatever classes the others are of, and however many they are."""
    first = added_by_the_last(engine, torch.zeros(11, dtype=torch.int64))
    for labels in (torch.full((11,), 2), data()[1][:-1]):
        assert torch.allclose(added_by_the_last(engine, labels), first, atol=1e-6)


def test_trap_3_is_found_where_it_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class-weighted cross-entropy with reduction "mean" divides by the sum of the others' weights too."""
    weights = torch.tensor([1.0, 5.0, 475.0])
    original = Classification.loss

    def weighted(self: Classification, logits: Tensor, y: Tensor) -> Tensor:
        return original(self, logits, y) * weights[y] / weights[y].sum()

    monkeypatch.setattr(Classification, "loss", weighted)
    monkeypatch.setattr(opacus, "require_own_loss", lambda *_: None)
    monkeypatch.setattr(opacus, "require_true_gradients", lambda *_: None)
    with pytest.raises((AssertionError, ModelError)):
        test_trap_3_a_normaliser_of_the_loss_that_depends_on_the_batch(Opacus)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(INPUTS, affine=False),
        nn.BatchNorm1d(INPUTS, affine=False, track_running_stats=False),
        nn.BatchNorm1d(INPUTS).requires_grad_(False),
    ],
)
def test_trap_4_batch_norm_without_parameters(engine: type[Trainer], layer: nn.Module) -> None:
    with pytest.raises(ModelError, match="BatchNorm1d, which mixes"):
        engine(nn.Sequential(layer, nn.Linear(INPUTS, CLASSES)), TrainingConfig(local_steps=1, batch_size=8, lr=1.0), plan())


def pull(engine: type[Trainer], of: ExamplePlan, mu: float) -> tuple[Tensor, Tensor]:
    """What FedProx makes of two steps beside what it must: −lr μ (w₁ − w₀), which needs no data but the released w₁."""
    x, y = data()
    with_it, without = (trained(engine, of, x, y, mu=strength) for strength in (mu, 0.0))
    first = trained(engine, replace(of, local_steps=1), x, y)
    return with_it - without, -mu * first


@pytest.mark.parametrize("engine", ENGINES)
def test_trap_5_a_regulariser_that_is_scaled_by_private_factors(engine: type[Trainer]) -> None:
    """Gradients are clipped a thousandfold; the pull is not."""
    found, expected = pull(engine, plan(max_grad_norm=1e-3, noise_multiplier=50.0, local_steps=2), 0.5)
    assert float(expected.norm()) > 1e-3
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_trap_6_a_regulariser_that_is_dropped(engine: type[Trainer]) -> None:
    found, expected = pull(engine, plan(max_grad_norm=1e6, noise_multiplier=1e-12, local_steps=2), 0.5)
    assert float(expected.norm()) > 1e-2
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_trap_7_one_record_that_is_not_finite(engine: type[Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    of_training("check_non_finite_example_is_a_zero", monkeypatch)(engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_trap_8_a_sum_that_is_left_over(engine: type[Trainer]) -> None:
    """Training that broke off in a batch leaves nothing behind for the next client."""
    x, y = data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, CLASSES))
    start_D, of = to_vector(model), plan(local_steps=3, batch_size=6, noise_multiplier=1.0)
    trainer = engine(model, TrainingConfig(local_steps=3, batch_size=6, lr=1.0), of)
    good = LocalTask(0, 12, InputStore(x), y, torch.arange(12), Seed(7))
    fresh = trainer.train(start_D, [good])[0].delta_D
    with pytest.raises((IndexError, RuntimeError)):
        trainer.train(start_D, [replace(good, y=y.clone().index_fill_(0, torch.arange(6, 12), 99))])
    assert torch.equal(trainer.train(start_D, [good])[0].delta_D, fresh)


@pytest.mark.parametrize("engine", ENGINES)
def test_trap_9_one_seed_in_two_clients(engine: type[Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    of_training("check_clients_are_independent", monkeypatch)(engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("check", ["check_step_is_the_clipped_mean", "check_denominator_is_fixed"])
def test_trap_10_reductions_that_disagree(engine: type[Trainer], check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_training(check, monkeypatch)(engine)


def test_trap_11_one_accountant_for_all_clients() -> None:
    """The largest over the clients, and not the sum, which would be that of one client that did it all."""
    ledger, each = Ledger(1e-5), plan(noise_multiplier=1.0, batch_size=10)
    spent: dict[Account, Any] = {client: each.planned(size) for client, size in enumerate((100, 80, 50))}
    for number in range(4):
        ledger.record(number, spent)
    alone = [accounting.epsilon(History({PoissonGaussian(10 / size, 1.0): 4}), 1e-5) for size in (100, 80, 50)]
    together = accounting.epsilon(History({PoissonGaussian(10 / size, 1.0): 4 for size in (100, 80, 50)}), 1e-5)
    assert ledger.client_epsilons(3) == alone
    assert ledger.epsilon() == max(alone) < together


def test_trap_12_a_rate_that_is_not_the_accounted_one() -> None:
    """Sizes whose inverse does not come back: B/N is accounted to the last bit, and drawn, by its mean."""
    odd = [size for size in range(1, 400) if int(1 / (1 / size)) != size]
    assert {93, 99, 105} <= set(odd)
    for size in odd:
        event = plan(batch_size=1, local_steps=4000).planned(size)
        assert event.sample_rate == 1 / size
        assert event.releases(1) == History({PoissonGaussian(1 / size, 1e-9): 4000})
    for size in odd[:4]:
        low, high = stats.binom.ppf([ERROR / 2, 1 - ERROR / 2], 4000 * size, 1 / size)
        batches = private_batches(plan(batch_size=1, local_steps=4000).planned(size), size, (Seed(size) / "b").torch())
        assert low <= sum(len(batch) for batch in batches) <= high
