"""The fused engine computes what the reference computes, and what plain autograd computes, rule by rule."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import CLASSES, CONVOLUTIONS, MODELS, WORDS, cohort, farthest, model, plan, settings, starting_point
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from privfl.data.input_store import InputStore
from privfl.learning.training import LocalResult, LocalTask, LocalWork, _cohort, _passes
from privfl.learning.training._budget import Limits
from privfl.learning.training._conversion import convert
from privfl.learning.training._pieces import Piece
from privfl.learning.training._rules import Runs, convolution, normalisation
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan
from privfl.privacy.plans.example import ExamplePlan
from privfl.privacy.plans.none import NoPlan

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
FLOATS = list(TOLERANCES)


def difference(name: str, of: Plan, dtype: torch.dtype, limits: Limits | None = None, **changes: Any) -> float:
    return farthest(lambda: model(name, dtype), cohort(name, dtype=dtype), of, limits, **changes)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", MODELS)
def test_private_training_is_what_autograd_finds_example_by_example(name: str, dtype: torch.dtype) -> None:
    assert difference(name, plan(), dtype) < TOLERANCES[dtype]


@pytest.mark.parametrize("name", MODELS)
def test_layers_may_be_clipped_one_by_one(name: str) -> None:
    assert difference(name, plan(scheme="per_layer"), torch.float64) < 1e-10


@pytest.mark.parametrize("name", MODELS)
def test_plain_training_is_sgd_on_the_mean_loss(name: str) -> None:
    assert difference(name, NoPlan(), torch.float64) < 1e-10


CHANGES: list[dict[str, Any]] = [{"momentum": 0.9}, {"weight_decay": 0.1}]


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("changes", [*CHANGES, {key: value for one in CHANGES for key, value in one.items()}])
def test_momentum_and_decay(of: Plan, changes: dict[str, Any]) -> None:
    assert difference("residual", of, torch.float64, **changes) < 1e-10
    assert difference("residual", of, torch.float64, **changes) != difference("residual", of, torch.float64)


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("examples", [1, 3, 100])
@pytest.mark.parametrize("padded", [False, True])
def test_pieces_of_any_size_add_up(of: Plan, examples: int, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)
    for name in ("convolution", "attention", "no rule", "lstm of several layers", "heads, crossed"):
        assert difference(name, of, torch.float64, Limits(2, examples)) < 1e-10


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("padded", [False, True])
def test_no_more_examples_than_fit_go_through_the_model(of: Plan, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills up a padded batch counts."""
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)
    through, original = list[int](), _passes.run_pass

    def watching(model: Any, weights: Any, runs: Runs, x: Tensor, *rest: Any) -> Any:
        through.append(len(x))
        return original(model, weights, runs, x, *rest)

    monkeypatch.setattr(_cohort, "run_pass", watching)
    trainer = Fused(model("linear"), settings(of), of)
    trainer._limits, trainer._apart = Limits(100, 6), True
    trainer.train(starting_point(model("linear")), cohort("linear", (30, 1, 2, 1, 3, 1)))
    assert 4 <= max(through) <= 6


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_batches_may_be_empty(name: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)
    of, seen = plan(batch_size=1, local_steps=6), list[tuple[int, ...]]()
    original = _cohort.Pieces.accumulate

    def watching(self: Any, piece: Any, batches: Any) -> None:
        seen.append(piece.sizes)
        original(self, piece, batches)

    monkeypatch.setattr(_cohort.Pieces, "accumulate", watching)
    assert difference(name, of, torch.float64) < 1e-10
    assert any(0 in sizes and len({*sizes}) == 3 for sizes in seen)


@pytest.mark.parametrize("of", [plan(batch_size=2), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name: str, of: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither updates nor what is counted, though an example overflows, and what fills up the batches of some could."""
    tasks = cohort(name, (1, 9, 4), torch.float64)
    if tasks[0].x.kept.is_floating_point() and isinstance(of, ExamplePlan):
        # The only example of the first client, which fills up all of its batches.
        tasks[0].x.kept[tasks[0].rows_n] = tasks[1].x.kept[tasks[1].rows_n[:2]] = torch.inf
    start_D, results = starting_point(model(name, torch.float64)), []
    for padded in (False, True):
        monkeypatch.setattr(_cohort, "pads", lambda _, padded=padded: padded)
        results.append(Fused(model(name, torch.float64), settings(of), of).train(start_D, tasks))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one.delta_D, other.delta_D, rtol=1e-9, atol=1e-12)
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert (one.clipped_share, one.zeroed, one.event) == (other.clipped_share, other.zeroed, other.event)


@pytest.mark.parametrize("of", [plan(), plan(scheme="per_layer"), plan(batch_size=1, local_steps=6), NoPlan()])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_by_the_library_are_the_same(name: str, of: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used in float32, where rounding would hide a small mistake."""
    monkeypatch.setattr(convolution, "library_pays", lambda *_: True)
    assert difference(name, of, torch.float64) < 1e-10


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("examples", [1, 3, 100])
@pytest.mark.parametrize("padded", [False, True])
def test_pieces_of_any_size_add_up_by_the_library(
    of: Plan, examples: int, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)
    monkeypatch.setattr(convolution, "library_pays", lambda *_: True)
    # Windows of one example at a time.
    monkeypatch.setattr(convolution, "_WINDOWS", 1)
    for name in ("convolution, grouped", "convolution of lines", "cnn"):
        assert difference(name, of, torch.float64, Limits(2, examples)) < 1e-10


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_by_products_keep_their_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "library_pays", lambda *_: False)
    assert difference(name, plan(), torch.float32) < 1e-5


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", MODELS)
def test_noise_is_added_to_what_autograd_finds(name: str, dtype: torch.dtype) -> None:
    of = plan(noise_multiplier=0.8, local_steps=5)
    assert difference(name, of, dtype, momentum=0.5) < TOLERANCES[dtype]


def test_tanh_is_within_rounding_of_itself_near_one() -> None:
    converted = convert(nn.Tanh())
    layer = converted.module
    far = torch.tensor([0.0, -0.0, 20.0, -1e38, torch.inf, -torch.inf, torch.nan])
    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.logspace(-30, 1, 10_001), far]).requires_grad_()
    converted.shared.runs = Runs((len(x),))
    out: Tensor = layer(x)
    y = out.detach()
    assert torch.equal(y[-7:].isnan(), far.isnan())
    assert float((y.double() - x.detach().double().tanh()).nan_to_num().abs().max()) < 2e-7
    assert float(y[:-1].abs().max()) <= 1.0
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.allclose(x.grad, 1 - x.detach().tanh().square(), rtol=0.0, atol=1e-6, equal_nan=True)
    assert torch.equal(layer(x.double())[:-1], x.double().tanh()[:-1])


# --- beside the reference, with noise ---------------------------------------------------------------------------------

OPACUS_REFUSES = {
    "no rule": "a parameter outside of every layer that it knows",
    "layer norm": "its rule fails where there is no bias",
    "embedding": "its rule gives the padding's row a gradient, which our guard finds out",
    "convolution, long rows": "its hooks do not bear an activation in place",
    **{name: "it has a class of its own for them" for name in MODELS if "lstm" in name or "heads" in name or "encoder" in name},
}


@pytest.mark.parametrize("scheme", ["flat", "per_layer"])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in OPACUS_REFUSES])
def test_the_reference_and_this_engine_draw_the_same_batches_and_noise(name: str, scheme: str) -> None:
    of = plan(noise_multiplier=0.8, local_steps=5, batch_size=3, scheme=scheme)
    config, start_D = settings(of, momentum=0.5, weight_decay=0.01), starting_point(model(name))
    tasks = [replace(task, work=LocalWork(mu=0.1)) for task in cohort(name)]
    expected = Opacus(model(name), config, of).train(start_D, tasks)
    found = Fused(model(name), config, of).train(start_D, tasks)
    for one, other in zip(found, expected, strict=True):
        assert float((one.delta_D - other.delta_D).norm() / other.delta_D.norm()) < 1e-5
        assert (one.client, one.event) == (other.client, other.event)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.clipped_share == other.clipped_share


def test_the_reference_trains_its_own_lstm_to_the_same_updates() -> None:
    """Without biases DPLSTM has the same numbers in the same order, and so the same noise."""
    name, of = "lstm without bias", plan(noise_multiplier=0.8, local_steps=5, batch_size=3)
    start_D, tasks = starting_point(model(name)), cohort(name)
    theirs = ModuleValidator.fix(model(name))
    assert "DPLSTM" in {type(layer).__name__ for layer in theirs.modules()}
    expected = Opacus(theirs, settings(of), of).train(start_D, tasks)
    found = Fused(model(name), settings(of), of).train(start_D, tasks)
    for one, other in zip(found, expected, strict=True):
        assert float((one.delta_D - other.delta_D).norm() / other.delta_D.norm()) < 1e-5
        assert (one.event, one.clipped_share) == (other.event, other.clipped_share)


def test_clients_of_different_sizes_take_different_numbers_of_steps() -> None:
    of = plan(noise_multiplier=0.8, local_steps=None, local_epochs=1, batch_size=4)
    start_D, tasks = starting_point(model("residual")), cohort("residual", (3, 30, 1, 12))
    expected = Opacus(model("residual"), settings(of), of).train(start_D, tasks)
    found = Fused(model("residual"), settings(of), of).train(start_D, tasks)
    assert [result.event.steps for result in found if result.event] == [1, 8, 1, 3]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.delta_D, other.delta_D, rtol=1e-5, atol=1e-6)
        assert one.event == other.event


@pytest.mark.parametrize("padded", [False, True])
def test_dropout_draws_what_the_reference_draws(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)

    def dropping() -> nn.Module:
        torch.manual_seed(0)
        layers = (nn.Conv2d(2, 4, 3), nn.Dropout2d(0.3), nn.Flatten(), nn.Dropout(0.4), nn.Linear(168, 4))
        return nn.Sequential(*layers)

    start_D, tasks = starting_point(dropping()), cohort("convolution")
    for of in (plan(noise_multiplier=0.8), NoPlan()):
        reference = Opacus(dropping(), settings(of), of)
        # Its first client of all is trained after checks that draw from the client's stream.
        reference.train(start_D, tasks[:1])
        expected = reference.train(start_D, tasks)
        found = Fused(dropping(), settings(of), of).train(start_D, tasks)
        for one, other in zip(found, expected, strict=True):
            # A padded batch draws for its idle rows too, at its end, so only the first layer of the first step agrees.
            if not padded:
                assert torch.allclose(one.delta_D, other.delta_D, rtol=1e-4, atol=1e-6)
            assert not torch.equal(one.delta_D, found[1 - found.index(one) % 2].delta_D)


class Scaled(nn.Module):
    """Divides by the input's own length, which zeros do not have."""

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x / x.norm(dim=1, keepdim=True)
        return scaled


@pytest.mark.parametrize("padded", [False, True])
def test_batches_are_filled_up_with_what_the_model_bears(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cohort, "pads", lambda _: padded)
    torch.manual_seed(0)
    module = nn.Sequential(Scaled(), nn.Linear(6, 4))
    found = Fused(module, settings(NoPlan()), NoPlan()).train(starting_point(module), cohort("linear"))
    assert all(bool(one.delta_D.isfinite().all()) for one in found)


def test_clients_may_have_pools_of_their_own() -> None:
    tasks = cohort("residual", (5, 7, 3))

    def train(tasks: Sequence[LocalTask], of: Plan) -> list[LocalResult]:
        return Fused(model("residual"), settings(of), of).train(starting_point(model("residual")), tasks)

    of = plan(noise_multiplier=0.8)
    expected = train(tasks, of)
    apart = [tasks[0], replace(tasks[1], x=InputStore(tasks[1].x.kept.clone())), replace(tasks[2], y=tasks[2].y.clone())]
    assert all(torch.equal(one.delta_D, other.delta_D) for one, other in zip(train(apart, of), expected, strict=True))
    # Inputs or labels of its own are its own.
    for other in (replace(tasks[1], x=InputStore(-tasks[1].x.kept)), replace(tasks[1], y=(tasks[1].y + 1) % CLASSES)):
        found = train([tasks[0], other, tasks[2]], of)
        same = [torch.equal(one.delta_D, other.delta_D) for one, other in zip(found, expected, strict=True)]
        assert same == [True, False, True]
    for row in (-1, len(tasks[0].y)):
        with pytest.raises(AssertionError):
            train([replace(tasks[0], rows_n=torch.tensor([1, 2, row])), *apart[1:]], NoPlan())


def test_an_empty_batch_is_filled_up_with_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a short one with its own first example."""
    monkeypatch.setattr(_cohort, "pads", lambda _: True)
    trainer, tasks = Fused(model("linear"), settings(NoPlan()), NoPlan()), cohort("linear", (3, 4, 5))
    trainer._state.begin(starting_point(model("linear")), [LocalWork()] * 3)
    work = _cohort.Pieces(trainer._cohort, trainer._state, tasks, None, trainer.config)
    batches = [torch.tensor([], dtype=torch.int64), torch.tensor([3, 1]), torch.tensor([4])]
    x, y, counts_N = work._examples(Piece(0, ((0, 0), (0, 2), (0, 1))), Runs((2, 2, 2)), batches)
    assert not bool(x[:2].any() | y[:2].any())
    assert torch.equal(x[2:4], tasks[1].x[tasks[1].rows_n[[3, 1]]])
    assert torch.equal(x[4:], tasks[2].x[tasks[2].rows_n[[4, 4]]])
    assert counts_N is not None
    assert counts_N.tolist() == [False, False, True, True, True, False]


def test_a_dropout_that_is_used_twice_draws_from_the_client_both_times() -> None:
    def twice() -> nn.Module:
        torch.manual_seed(0)
        dropout = nn.Dropout(0.5)
        return nn.Sequential(nn.Linear(6, 8), dropout, nn.Linear(8, 8), dropout, nn.Linear(8, 4))

    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        built = twice()
        torch.set_rng_state(state)
        results.append(Fused(built, settings(NoPlan()), NoPlan()).train(starting_point(built), cohort("linear")))
    assert all(torch.equal(one.delta_D, other.delta_D) for one, other in zip(*results, strict=True))


def test_words_are_integers() -> None:
    assert {cohort(name)[0].x.kept.dtype for name, (shape, _) in MODELS.items() if shape == WORDS} == {torch.int64}


def test_group_norms_in_several_calls_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes so many groups in a call, and no more."""
    of = plan(noise_multiplier=0.8)

    def deltas() -> list[torch.Tensor]:
        found = Fused(model("group norm"), settings(of), of).train(starting_point(model("group norm")), cohort("group norm"))
        return [one.delta_D for one in found]

    expected = deltas()
    monkeypatch.setattr(normalisation, "_BLOCKS", 7)
    assert all(torch.equal(one, other) for one, other in zip(deltas(), expected, strict=True))
