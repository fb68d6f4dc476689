"""Models that users write and engines trip over: each is trained rightly, or refused in one line that says what to do."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_checks import CLASSES, INPUTS, plan, task, train
from engines import choice_of
from torch import Tensor, nn
from torch.nn import functional

from privfl.data.input_store import InputStore
from privfl.errors import ModelError
from privfl.learning.training import LocalTask, Trainer, opacus
from privfl.learning.training._guards import STEPS, moved
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan

ENGINES: list[type[Trainer]] = [Opacus, Fused]


def refused(engine: type[Trainer], of: Plan, model: nn.Module, *tasks: LocalTask) -> str:
    with pytest.raises(ModelError) as caught:
        train(engine, of, *(tasks or (task(),)), model=model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- layers that write ----------------------------------------------------------------------------------------------


class Words(nn.Module):
    """The mean of some words' vectors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(10, 8, **settings), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.table(x.long()).mean(1))
        return logits


@pytest.mark.parametrize("engine", ENGINES)
def test_a_table_that_rescales_what_is_looked_up_is_refused(engine: type[Trainer]) -> None:
    """In place, neither clipped nor noised: a word that one example has, has another row afterwards."""
    assert "table is an Embedding with max_norm" in refused(engine, plan(), Words(max_norm=1.0))


class Writes(nn.Module):
    """Keeps its layer's scale to the inputs', from such of a size on."""

    def __init__(self, least: float, data: bool = False) -> None:
        super().__init__()
        self.linear, self.least, self.data = nn.Linear(INPUTS, CLASSES), least, data

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            if bool(x.abs().max() > self.least):
                weight = self.linear.weight
                (weight.data if self.data else weight).div_(1 + x.abs().max())
        logits: Tensor = self.linear(x)
        return logits


def test_a_layer_that_writes_into_its_parameters_is_refused() -> None:
    assert "keeps something of the examples" in refused(Opacus, plan(), Writes(0.0))


@pytest.mark.parametrize("data", [False, True])
def test_also_where_only_a_later_batch_makes_it_write(data: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through ``.data`` as well, which PyTorch does not keep a count of."""
    one = task(40)
    one.x.kept[-1] = 1e6
    monkeypatch.setattr(opacus, "require_apart", lambda *_: None)
    said = refused(Opacus, plan(batch_size=1, local_steps=200), Writes(1e5, data), one)
    assert "writes into its own parameters" in said


class Average:
    """A running mean in an object of a class of its own."""

    def __init__(self) -> None:
        self.seen, self.mean = 0, 0.0


class Kept(Average, nn.Module):
    """In a module that is none of the model's."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.seen, self.mean = 0, 0.0


def _itself(first: Average) -> list[object]:
    """In a list that holds itself."""
    found: list[object] = [first]
    found.append(found)
    return found


class Warm(nn.Module):
    """Takes away a mean that it keeps, once it has met enough."""

    def __init__(self, keeper: object) -> None:
        super().__init__()
        self.linear, self.keeper = nn.Linear(INPUTS, CLASSES), keeper

    def forward(self, x: Tensor) -> Tensor:
        average = self.keeper if isinstance(self.keeper, Average) else self.keeper[0]  # type: ignore[index]
        average.seen += len(x)
        average.mean += float(x.detach().sum())
        logits: Tensor = self.linear(x - (average.mean / average.seen if average.seen > 10**6 else 0.0))
        return logits


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("keeper", [Average, lambda: [Average()], lambda: [Kept()], lambda: _itself(Average())])
def test_what_is_kept_in_any_object_is_found(engine: type[Trainer], keeper: Callable[[], object]) -> None:
    assert "keeps something of the examples" in refused(engine, plan(), Warm(keeper()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_which_sums_are_rounded_beyond_the_clip_are_refused(dtype: torch.dtype) -> None:
    for engine in ENGINES:
        assert "make the model float32" in refused(engine, plan(), nn.Linear(INPUTS, CLASSES).to(dtype))


# --- what the checks must not be blind to ----------------------------------------------------------------------------


class OwnDropout(nn.Module):
    """A user's own, by PyTorch's global generator."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize("layer", [nn.AlphaDropout, nn.FeatureAlphaDropout, OwnDropout])
def test_what_draws_without_a_rule_is_the_references(layer: Callable[[], nn.Module]) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(INPUTS, 8), layer(), nn.Linear(8, CLASSES))

    choice = choice_of(model(), task().x[:1])
    assert choice.engine == "opacus"
    assert "draws random numbers outside of nn.Dropout" in choice.why
    assert "draws random numbers" in refused(Fused, plan(), model())
    first, second = (train(Opacus, plan(noise_multiplier=0.8), task(), model=model())[0].delta_D for _ in range(2))
    assert torch.equal(first, second)


class MixesLate(nn.Module):
    """Takes the batch's mean away, in front of a head that begins as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(INPUTS, 8), nn.Linear(8, CLASSES)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        logits: Tensor = self.head(h - h.mean(0))
        return logits


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_of_zeros_hides_no_mixing(engine: type[Trainer]) -> None:
    assert "depends on the other examples" in refused(engine, plan(), MixesLate())


def test_a_head_of_zeros_hides_no_wrong_gradients() -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        head = nn.Linear(4 * 4, 3)
        nn.init.zeros_(head.weight)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), head)

    images = replace(task(10), x=InputStore(torch.randn(10, 1, 6, 6)))
    train(Opacus, plan(), images, model=model())
    last = model().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert "channels_last" in refused(Opacus, plan(), last, images)


def test_checks_leave_the_weights_as_they_were() -> None:
    """To the bit, whatever rounding does to a sum and a difference."""
    model = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    before = [parameter.clone() for parameter in model.parameters()]
    with moved(model, STEPS[-1]):
        assert not any(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


# --- what is trained as it is ---------------------------------------------------------------------------------------


class Spoken(Words):
    """Takes the mean over words alone: of a text without any there is none."""

    def forward(self, x: Tensor) -> Tensor:
        there = (x.long() != 0).float().unsqueeze(2)
        logits: Tensor = self.linear((self.table(x.long()) * there).sum(1) / there.sum(1))
        return logits


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_may_want_a_word_in_every_text(engine: type[Trainer]) -> None:
    torch.manual_seed(0)
    words = 1 + torch.randint(9, (40, 5)).float()
    words[:, 3:] = 0
    assert train(engine, plan(), replace(task(), x=InputStore(words)), model=Spoken())


@pytest.mark.parametrize("engine", ENGINES)
def test_words_may_come_as_floats(engine: type[Trainer]) -> None:
    """Data sets hold float32, so a model makes integers of them itself; no table has a row for a large number."""
    torch.manual_seed(0)
    words = torch.randint(10, (40, 5)).float()
    assert train(engine, plan(), replace(task(), x=InputStore(words)), model=Words())


class WritesItsInput(nn.Module):
    """Shifts what it is given in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        logits: Tensor = self.linear(x)
        return logits


class Shifted(WritesItsInput):
    """The same out of place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clone())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_may_write_into_its_input(engine: type[Trainer]) -> None:
    torch.manual_seed(0)
    first, second = (train(engine, plan(), task(), model=model)[0].delta_D for model in _alike(WritesItsInput(), Shifted()))
    assert torch.equal(first, second)


def _alike(one: nn.Module, other: nn.Module) -> tuple[nn.Module, nn.Module]:
    other.load_state_dict(one.state_dict())
    return one, other


class Block(nn.Module):
    """A residual block as it is mostly written."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 4), nn.GroupNorm(2, 4)])
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.relu(self.norms[0](self.first(x)))
        h = self.norms[1](self.second(identity))
        h += identity
        logits: Tensor = self.head(self.relu(h).mean((2, 3)))
        return logits


def test_a_sum_may_be_taken_in_place() -> None:
    images = replace(task(10), x=InputStore(torch.randn(10, 1, 6, 6, generator=torch.Generator().manual_seed(0))))
    assert choice_of(Block(), images.x[:1]).engine == "fused"
    assert train(Fused, plan(), images, model=Block())


@pytest.mark.parametrize("norm", [lambda: nn.InstanceNorm2d(4, affine=True), lambda: nn.GroupNorm(4, 4)])
def test_a_bias_in_front_of_a_norm_has_no_gradient_and_is_no_fault(norm: Callable[[], nn.Module]) -> None:
    images = replace(task(10), x=InputStore(torch.randn(10, 1, 6, 6, generator=torch.Generator().manual_seed(0))))
    for seed in range(5):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), norm(), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))
        assert train(Opacus, plan(), images, model=model)


class Root(nn.Module):
    """Multiplies by the roots of numbers that begin close to zero, some of which a step of the checks makes negative."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.variance = nn.Linear(INPUTS, CLASSES), Variance()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.variance(self.linear(x))
        return logits


class Variance(nn.Module):
    """The layer with these numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.full((2 * CLASSES,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.values.sqrt()[CLASSES:]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_parameter_that_cannot_be_moved_is_no_mixing(engine: type[Trainer]) -> None:
    model = Root()
    with moved(model, STEPS[-1]):
        assert not bool(model(torch.ones(1, INPUTS)).isfinite().all())
    assert train(engine, plan(), task(), model=model)


class Asks(nn.Module):
    """Reads its layer's settings."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.reshape(-1, self.linear.in_features))
        return logits


class Reads(Asks):
    """Reads its layer's parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.linear.weight, self.linear.bias)


class Iterates(Asks):
    """Asks for the first of its parameters."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.to(next(self.parameters()).device))
        return logits


def test_a_model_that_asks_for_its_layers_settings_is_told() -> None:
    assert choice_of(Asks(), task().x[:1]).engine == "fused"


@pytest.mark.parametrize("model", [Reads, Iterates])
def test_a_model_that_asks_for_its_parameters_is_the_references(model: Callable[[], nn.Module]) -> None:
    assert choice_of(model(), task().x[:1], NoPlan()).engine == "opacus"
    assert train(Opacus, NoPlan(), task(), model=model())
    with pytest.raises(ModelError, match=r"set training\.engine = 'opacus', which trains this model"):
        choice_of(model(), task().x[:1], NoPlan(), "fused")


class Temperature(nn.Module):
    """Scales by a parameter that is a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_a_parameter_may_be_a_single_number() -> None:
    def trained(engine: type[Trainer]) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(INPUTS, CLASSES), Temperature())
        return train(engine, plan(), task(), model=model)[0].delta_D

    assert trained(Fused).shape == (INPUTS * CLASSES + CLASSES + 1,)
    assert torch.allclose(trained(Fused), trained(Opacus), rtol=0.0, atol=1e-6)


def test_a_group_norm_without_shift_is_left_to_others() -> None:
    try:
        norm = nn.GroupNorm(2, 4, bias=False)
    except TypeError:
        pytest.skip("this PyTorch's GroupNorm has no such setting")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(4 * 16, 3))
    images = replace(task(10), x=InputStore(torch.randn(10, 1, 6, 6)))
    assert "GroupNorm" in choice_of(model, images.x[:1]).why
    assert train(Fused, plan(), images, model=model)
